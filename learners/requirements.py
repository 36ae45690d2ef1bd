"""What the learning side of a run needs, for `launch.py check`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from buffers.environment_spec import EnvironmentSpec
from configs.plan import Requirement
from configs.registry import construct
from configs.schema import RunConfig
from learners.advantages import ADVANTAGES
from learners.decision_learner import DecisionLearner
from learners.losses import LOSSES
from learners.models.adapter import require_peft, trained_numbers
from learners.models.load import architecture_config, check_model_folder
from learners.models.tokenizer import character_tokenizer

__all__ = ["parameter_count", "requirements"]

MIB = 1 << 20
FLOAT32 = 4
"""Bytes of a number of an adapter, whatever the model's dtype."""


def requirements(config: RunConfig, spec: Callable[[], EnvironmentSpec]) -> Iterator[Requirement]:
    """Read the model's sizes, build loss and advantage, and add up the batch and the memory.

    Args:
      spec: returns what a decision policy acts in.

    Raises:
      ConfigError, DataError: a component or the model folder cannot be used.
    """
    construct(LOSSES, config.learner.loss, "learner.loss")
    batch, section = config.batch, config.environment
    if config.is_decision:
        frames = section.fragments_per_update * section.fragment_length
        text = (
            f"{section.fragments_per_update} fragments x {section.fragment_length} steps = {frames:,} frames per update"
        )
        yield Requirement(
            subject="batch", text=f"{text}; {config.updates} updates = {config.updates * frames:,} frames"
        )
    else:
        construct(ADVANTAGES, config.learner.advantage, "learner.advantage")
        text = f"{batch.prompts_per_update} prompts x {batch.num_generations} generations = {batch.samples} samples"
        samples = f"{config.updates} updates = {config.updates * batch.samples:,} samples"
        yield Requirement(subject="batch", text=f"{text} per update; {samples}")
    bound = (config.max_staleness + 1) * batch.samples
    yield Requirement(
        subject="staleness",
        text=f"{config.mode}, max_staleness {config.max_staleness}: at most {bound:,} samples ahead of the learner",
    )
    yield _policy(config, spec()) if config.is_decision else _model(config)
    if config.model.adapter.rank:
        yield _adapter(config)


def _policy(config: RunConfig, spec: EnvironmentSpec) -> Requirement:
    weights = DecisionLearner(config, spec).weights().values()
    count = sum(w.numel() for w in weights)
    return Requirement(subject="policy", text=f"{config.policy['target']}, {count:,} numbers published per update")


def _model(config: RunConfig) -> Requirement:
    where, shape = _architecture(config)
    count = parameter_count(shape)
    width = 2 if config.model.dtype == "bfloat16" else 4
    copies = 2 + 2 + (1 if config.learner.beta > 0 else 0)  # weights, gradients, two moments, reference
    own, adapter = count * width * copies, config.model.adapter
    if adapter.rank:
        own = count * width + trained_numbers(parameter_shapes(shape), adapter) * FLOAT32 * copies
    memory = f"{own / MIB:,.0f} MiB per learner rank, {count * width / MIB:,.0f} MiB per engine"
    limit = getattr(shape, "max_position_embeddings", None)
    if limit is not None and config.rollout.context_length > limit:
        return Requirement(
            subject="model",
            text=f"rollout.context_length {config.rollout.context_length} exceeds the model's {limit} positions",
            status="FAIL",
            remedy=f"lower rollout.context_length to {limit}",
        )
    return Requirement(subject="model", text=f"{shape.model_type} ({where}), {count:,} parameters: {memory}")


def _adapter(config: RunConfig) -> Requirement:
    """Say what is trained and published of a model that gets an adapter."""
    require_peft()
    adapter, shapes = config.model.adapter, parameter_shapes(_architecture(config)[1])
    trained, count = trained_numbers(shapes, adapter), sum(map(math.prod, shapes.values()))
    width = 2 if config.model.dtype == "bfloat16" else FLOAT32
    text = f"rank {adapter.rank}, scale {adapter.scale:g}: {trained:,} numbers are trained; each publication has "
    text += f"{trained * FLOAT32 / MIB:,.2f} MiB in place of {count * width / MIB:,.2f}"
    return Requirement(subject="adapter", text=f"{text}; an engine keeps a copy of the weights it is added to")


def _architecture(config: RunConfig) -> tuple[str, Any]:
    """Return (where the model comes from, its transformers config)."""
    if config.model.path is not None:
        return config.model.path, check_model_folder(config.model, config.model.path, config.rollout.context_length)
    vocabulary = len(character_tokenizer(config.model.characters))
    return "made at the start", architecture_config(config.model.architecture, vocabulary)


def parameter_count(shape: Any) -> int:
    """Return the parameters of a transformers config without allocating them."""
    return sum(map(math.prod, parameter_shapes(shape).values()))


def parameter_shapes(shape: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a transformers config by name, without allocating them."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in AutoModelForCausalLM.from_config(shape).named_parameters()}

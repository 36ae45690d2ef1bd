"""What the learning side of a run needs, for `launch.py check`."""

from __future__ import annotations

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
from learners.models.load import architecture_config, check_model_folder
from learners.models.tokenizer import character_tokenizer

__all__ = ["parameter_count", "requirements"]

MIB = 1 << 20


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


def _policy(config: RunConfig, spec: EnvironmentSpec) -> Requirement:
    weights = DecisionLearner(config, spec).weights().values()
    count = sum(w.numel() for w in weights)
    return Requirement(subject="policy", text=f"{config.policy['target']}, {count:,} numbers published per update")


def _model(config: RunConfig) -> Requirement:
    if config.model.path is not None:
        where = config.model.path
        shape = check_model_folder(config.model, where, config.rollout.context_length)
    else:
        vocabulary = len(character_tokenizer(config.model.characters))
        shape, where = architecture_config(config.model.architecture, vocabulary), "made at the start"
    count = parameter_count(shape)
    width = 2 if config.model.dtype == "bfloat16" else 4
    copies = 2 + 2 + (1 if config.learner.beta > 0 else 0)  # weights, gradients, two moments, reference
    memory = f"{count * width * copies / MIB:,.0f} MiB per learner rank, {count * width / MIB:,.0f} MiB per engine"
    limit = getattr(shape, "max_position_embeddings", None)
    if limit is not None and config.rollout.context_length > limit:
        return Requirement(
            subject="model",
            text=f"rollout.context_length {config.rollout.context_length} exceeds the model's {limit} positions",
            status="FAIL",
            remedy=f"lower rollout.context_length to {limit}",
        )
    return Requirement(subject="model", text=f"{shape.model_type} ({where}), {count:,} parameters: {memory}")


def parameter_count(shape: Any) -> int:
    """Return the parameters of a transformers config without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())

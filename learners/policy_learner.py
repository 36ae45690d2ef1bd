"""The policy learner: a table in, new weights out. A plain object, the same with one rank or many.

One update is `num_iterations` passes over `minibatches` optimiser steps; each step adds up the
gradients of its micro-batches, then those of all ranks. Where a backend cuts the weights over ranks,
every method that reads or writes them is one that all ranks call together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from buffers.digest import chain_digest, weights_digest
from configs.language import ModelConfig
from configs.learning import LearnerConfig
from configs.registry import construct, split
from learners.advantages import ADVANTAGES
from learners.backends import Backend
from learners.backends import build as build_backend
from learners.batch import Batch, Item, read_batch, shard, split_groups
from learners.collective import Alone, Collective
from learners.feedback import Advantage, read_feedback
from learners.losses import LOSSES
from learners.losses.base import Denominators
from learners.losses.importance import effective_sample_size
from learners.models.adapter import insert_adapter
from learners.models.load import load_network
from learners.models.weights import Layout
from learners.objective import Objective, Prepared
from learners.packing import MicroBatch, pack
from learners.progress import LearnerState, Progress
from learners.recompute import recompute_blocks
from learners.schedule import learning_rate
from learners.scorer import Scorer

__all__ = ["PolicyLearner"]

Metrics = dict[str, float]

REFERENCE_BUCKET = 64 << 20
"""Bytes of weights that are copied to the reference policy at a time."""
NOTHING = Item(np.zeros(2, np.int64), np.ones(1, np.int64), np.zeros(1, np.float32), 1.0, 0)
"""The shortest sequence with a loss token."""


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One rank's part of an optimiser step, and the counts of all ranks' parts."""

    parts: list[Prepared]
    denominators: Denominators


class PolicyLearner:
    """Owns the network, its optimiser and the record of what it was trained on."""

    def __init__(
        self,
        config: LearnerConfig,
        model: ModelConfig,
        folder: str | Path,
        *,
        collective: Collective | None = None,
        seed: int = 0,
        total_updates: int = 1,
    ) -> None:
        """Load the network of `folder`.

        Args:
          collective: the other ranks; None is a group of one.
          total_updates: updates of the whole run, which decaying schedules need.

        Raises:
          ConfigError: an unknown loss, advantage or schedule, or a loss this learner cannot feed.
          DataError: the folder holds no usable model.
        """
        torch.manual_seed(seed)
        self.progress = Progress()
        self._config, self._total_updates = config, total_updates
        self._collective: Collective = collective or Alone()
        self._advantage: Advantage = construct(ADVANTAGES, config.advantage, "learner.advantage")
        loss = construct(LOSSES, config.loss, "learner.loss")
        varlen = config.packing == "varlen" or (config.packing == "auto" and model.device.startswith("cuda"))
        self._pack = partial(pack, budget=config.micro_batch_tokens, varlen=varlen, device=model.device)
        self._objective = Objective(loss, beta=config.beta, pack=self._pack, device=model.device)
        self._metric_names = self._objective.metric_names()
        self._rate(0)
        self.network: Any = load_network(model, folder)
        insert_adapter(self.network, model.adapter, seed)
        self._scorer = Scorer(self.network, config.logits_chunk, bf16=config.bf16)
        self._reference = self._frozen_copy() if self._objective.needs_reference else None
        self.layout = Layout.of(self._trained())
        if config.activation_checkpointing:
            recompute_blocks(self.network)
        self._backend: Backend = build_backend(config, self._scorer, self.network, self._collective)
        (self._nothing,) = self._pack([NOTHING], [0])
        self.set_reference()

    @property
    def version(self) -> int:
        """Updates so far: the version of the weights."""
        return self.progress.version

    def weights(self) -> dict[str, Tensor]:
        """Return name -> whole trained weight, detached but not copied: the next update may change them in place."""
        return self._backend.gather([spec.name for spec in self.layout.specs])

    def buckets(self, limit: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weights in the order of the layout, about `limit` bytes at a time."""
        return map(self._backend.gather, self.layout.buckets(limit))

    def digest(self) -> str:
        """Return the sha256 of the weights."""
        held = {name: w.view(torch.int16) if w.dtype == torch.bfloat16 else w for name, w in self.weights().items()}
        return weights_digest({name: w.cpu() for name, w in held.items()})

    def set_reference(self) -> None:
        """Make the present weights the reference policy, if the loss or `beta` needs one."""
        if self._reference is not None:
            for bucket in self.buckets(REFERENCE_BUCKET):
                copy_into(self._reference.network, bucket)

    def reset_optimiser(self) -> None:
        """Forget the moments: what follows is another phase."""
        self._backend.reset()

    def update(self, table: pa.Table) -> Metrics:
        """Train on a batch; every rank is given the same table.

        Returns:
          Metrics over the whole batch, equal on all ranks.

        Raises:
          RunError: `max_nonfinite_updates` updates in a row were skipped.
          DataError: the table breaks the trajectory schema.
          MemberLost: another rank is gone.
        """
        batch = read_batch(table)
        minibatches = self._plan(batch)
        rate = self._rate(self.progress.version)
        steps = [self._step(m, rate) for _ in range(self._config.num_iterations) for m in minibatches]
        skipped = sum(step["optim/skipped"] for step in steps)
        metrics = {name: sum(s[name] for s in steps) / len(steps) for name in steps[0]} if steps else {}
        metrics |= {"optim/lr": rate, "optim/skipped": float(skipped)}
        self.progress.advance(chain_digest(self.progress.trained_digest, batch.ids), len(batch.ids))
        self.progress.count_failure(bool(steps) and skipped == len(steps), self._config.max_nonfinite_updates)
        return metrics

    def supervised_update(self, items: Sequence[Item], rate: float) -> float:
        """Take one step of maximum likelihood on the loss tokens of `items`; every rank is given all of them.

        Returns:
          Mean nats per token before the step.
        """
        total = torch.zeros(1)
        tokens = sum(len(item.targets) for item in items)
        mine = range(self._collective.rank, len(items), self._collective.size)

        def loss(micro: MicroBatch) -> Tensor:
            nats = -self._backend.module(micro)[0].sum() / tokens
            total.add_(nats.detach().cpu())
            return nats

        self._backward(loss, self._pack(items, mine))
        self._collective.sum(total)
        self._backend.step(rate)
        return float(total)

    def state(self) -> LearnerState:
        """Return everything that `load` needs to go on bit for bit; on ranks but the first without the tensors.

        Where the backend cuts weights and moments, they are gathered one by one; otherwise nothing is copied.
        """
        first = self._collective.rank == 0
        weights = ((name, w) for bucket in self.buckets(1) for name, w in bucket.items())
        reference = self._reference_weights() if first else {}
        return LearnerState(
            progress=copy.copy(self.progress),
            model=kept(weights, first),
            optimiser=kept(self._backend.optimiser_state(), first),
            reference=reference,
            rng=torch.get_rng_state(),
        )

    def load(self, state: LearnerState) -> None:
        """Restore what the first rank's `state` returned, under this or another backend; every rank is given it.

        Raises:
          DataError: it belongs to another model.
        """
        shapes = self.layout.described()
        state.check_names({"model": shapes} | ({"reference": shapes} if self._reference else {}))
        self._backend.fill(state.model)
        if self._reference is not None:
            copy_into(self._reference.network, state.reference)
        self._backend.load_optimiser(state.optimiser)
        torch.set_rng_state(state.rng)
        self.progress = copy.copy(state.progress)

    def _trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def _frozen_copy(self) -> Scorer:
        """Return a copy of the scorer; parameters that are not trained are shared, unless a backend cuts them."""
        whole = split(self._config.backend, "learner.backend")[0] == "ddp"
        shared = {id(p): p for p in self.network.parameters() if whole and not p.requires_grad}
        return copy.deepcopy(self._scorer, shared).requires_grad_(False)

    def _reference_weights(self) -> dict[str, Tensor]:
        if self._reference is None:
            return {}
        held = dict(self._reference.network.named_parameters())
        return {spec.name: held[spec.name].detach() for spec in self.layout.specs}

    def _rate(self, update: int) -> float:
        c = self._config
        return learning_rate(
            c.learning_rate, update, shape=c.schedule, warmup=c.warmup_updates, total=self._total_updates
        )

    def _plan(self, batch: Batch) -> list[Minibatch]:
        """Cut the batch into optimiser steps, take this rank's part, and fill what stays fixed in the update."""
        rows = batch.trainable
        lengths = [len(item.targets) for item in batch.items]
        advantages = self._advantage(read_feedback(batch)).float()
        cuts = split_groups(rows, batch.groups, [1.0] * len(rows), self._config.minibatches)
        plan = []
        for cut in filter(None, cuts):
            mine = shard(batch, cut, self._collective.rank, self._collective.size)
            counts = Denominators(float(sum(lengths[i] for i in cut)), float(len(cut)))
            plan.append(Minibatch(self._objective.prepare(batch, mine, advantages), counts))
        self._fill([part for minibatch in plan for part in minibatch.parts])
        return plan

    def _fill(self, parts: Sequence[Prepared]) -> None:
        """Compute the log-probabilities that later steps compare with."""
        if self._config.num_iterations * self._config.minibatches > 1:
            with self._collective.expecting("weights"), torch.no_grad():
                for _ in range(self._missing(parts)):
                    self._scorer(self._nothing)
                for part in parts:
                    part.proximal = self._objective.logprobs(self._scorer, part)
        if self._reference is not None:
            for part in parts:
                part.reference = self._objective.logprobs(self._reference, part)

    def _missing(self, parts: Sequence[Any]) -> int:
        """Return how many passes other ranks make beyond those of this rank, where all must make the same number."""
        return self._collective.most(len(parts)) - len(parts) if self._backend.lockstep else 0

    def _step(self, minibatch: Minibatch, rate: float) -> Metrics:
        """Take one optimiser step; return its metrics."""
        sums = torch.zeros(len(self._metric_names))

        def loss(part: Prepared) -> Tensor:
            value, metrics = self._objective.evaluate(self._backend.module, part, minibatch.denominators)
            sums.add_(torch.stack([metrics[name] for name in self._metric_names]).cpu())
            return value

        self._backward(loss, minibatch.parts)
        self._collective.sum(sums)
        result = dict(zip(self._metric_names, sums.tolist(), strict=True))
        mean, mean_square = result["rollout/is_ratio/mean"], result.pop("rollout/is_ratio/mean_square")
        norm, taken = self._backend.step(rate)
        return result | {
            "rollout/ess": effective_sample_size(mean, mean_square),
            "optim/grad_norm": norm,
            "optim/skipped": float(not taken),
        }

    def _backward(self, loss: Callable[[Any], Tensor], parts: Sequence[Any]) -> None:
        """Add up the gradients of a step over its parts and the ranks."""
        # A rank without a part, or with fewer than others, passes nothing through, so that all meet.
        empty = max(self._missing(parts), 0 if parts else 1)
        passes: list[Callable[[], Tensor]] = [self._nothing_loss] * empty + [partial(loss, part) for part in parts]
        for number, make in enumerate(passes, 1):
            with self._backend.micro_batch(last=number == len(passes)):
                self._backend.backward(make())

    def _nothing_loss(self) -> Tensor:
        return self._backend.module(self._nothing)[0].sum() * 0


@torch.no_grad()
def copy_into(network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite parameters of a network."""
    held = dict(network.named_parameters())
    for name, tensor in tensors.items():
        held[name].copy_(tensor)


def kept(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Go through all tensors; return them, or none."""
    return {name: tensor.cpu() for name, tensor in tensors if keep}

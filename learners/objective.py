"""What one optimiser step minimises: the policy loss of a minibatch, micro-batch by micro-batch.

Dimensions: B sequences of a micro-batch, C loss tokens (padded), N loss tokens (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import ConfigError
from learners.batch import Batch
from learners.losses.base import Denominators, Loss, LossInputs, Metrics, log_ratio
from learners.losses.importance import mismatch_metrics
from learners.losses.kl import k3, reference_kl
from learners.packing import MicroBatch

__all__ = ["Objective", "Prepared", "Score"]

SUPPLIED = frozenset({"current", "behaviour", "proximal", "reference", "rewards", "entropy"})


Score = Callable[[MicroBatch], tuple[Tensor, Tensor]]
"""A `learners.scorer.Scorer`, alone or joined with those of other ranks."""


@dataclass(slots=True)
class Prepared:
    """A micro-batch with what does not change during the update; all [B, C] unless said."""

    micro: MicroBatch
    mask: Tensor
    behaviour: Tensor
    advantages: Tensor
    rewards: Tensor
    """[B]"""
    groups: Tensor
    """[B]"""
    proximal: Tensor | None = None
    reference: Tensor | None = None


class Objective:
    """Policy loss plus beta times the KL to the reference, and the metrics beside them."""

    def __init__(self, loss: Loss, *, beta: float, pack: Callable[..., list[MicroBatch]], device: str = "cpu") -> None:
        """Combine a loss with `beta` times the KL to the reference.

        Args:
          pack: `learners.packing.pack` with its settings.

        Raises:
          ConfigError: the loss asks for something that is not there.
        """
        if unknown := loss.inputs - SUPPLIED:
            names = ", ".join(sorted(unknown))
            raise ConfigError(f"learner.loss asks for {names}; a policy learner supplies {', '.join(sorted(SUPPLIED))}")
        self._loss, self._beta, self._pack, self._device = loss, beta, pack, device

    @property
    def needs_reference(self) -> bool:
        return self._beta > 0 or "reference" in self._loss.inputs

    def prepare(self, batch: Batch, rows: Sequence[int], advantages: Tensor) -> list[Prepared]:
        """Return the micro-batches of some rows.

        Args:
          advantages: [all, T] of the whole batch, left-aligned over loss tokens.
        """
        micros = self._pack(batch.items, rows, coupling=self._loss.coupling)
        return [self._prepare(batch, micro, advantages) for micro in micros]

    def logprobs(self, score: Score, prepared: Prepared) -> Tensor:
        """Return [B, C] nats, without gradient."""
        with torch.no_grad():
            return prepared.micro.grid(score(prepared.micro)[0])

    def evaluate(self, score: Score, prepared: Prepared, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return ([] loss with gradient, metrics), additive over micro-batches and ranks."""
        logprobs, entropy = score(prepared.micro)
        return self.combine(prepared, prepared.micro.grid(logprobs), prepared.micro.grid(entropy), denominators)

    def combine(
        self, prepared: Prepared, current: Tensor, entropy: Tensor, denominators: Denominators
    ) -> tuple[Tensor, Metrics]:
        """Return the loss and metrics of [B, C] log-probabilities."""
        # At the first step the current weights are the proximal ones: no second forward pass.
        proximal = current.detach() if prepared.proximal is None else prepared.proximal
        mask = prepared.mask
        tensors = LossInputs(
            current=current,
            behaviour=prepared.behaviour,
            advantages=prepared.advantages,
            proximal=proximal,
            reference=prepared.reference,
            entropy=entropy,
            rewards=prepared.rewards,
            groups=prepared.groups,
        )
        loss, metrics = self._loss(tensors, mask, denominators)
        if prepared.reference is not None:
            kl = reference_kl(current, prepared.reference, mask, denominators)
            metrics["policy/kl_ref"] = kl.detach()
            if self._beta > 0:
                loss = loss + self._beta * kl
        metrics["policy/loss"] = loss.detach()
        metrics["policy/entropy"] = entropy.detach().sum() / denominators.tokens
        moved = k3(log_ratio(current.detach(), proximal, mask))
        metrics["policy/ppo_kl"] = moved.sum() / denominators.tokens
        return loss, metrics | mismatch_metrics(proximal, prepared.behaviour, mask, denominators)

    def metric_names(self) -> list[str]:
        """Return the sorted names of `evaluate`'s metrics: a rank without rows must add zeros to the same ones."""
        one, zero = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
        reference = zero if self.needs_reference else None
        nothing: Any = None
        probe = Prepared(nothing, one, zero, zero, zero[0], zero[0].long(), reference=reference)
        return sorted(self.combine(probe, zero, zero, Denominators(1.0, 1.0))[1])

    def _prepare(self, batch: Batch, micro: MicroBatch, advantages: Tensor) -> Prepared:
        behaviour = torch.cat([torch.from_numpy(batch.items[i].behaviour) for i in micro.members]).to(self._device)
        return Prepared(
            micro,
            micro.grid(torch.ones_like(behaviour)) > 0,
            micro.grid(behaviour),
            advantages[micro.members, : micro.width].to(self._device),
            torch.from_numpy(batch.rewards[micro.members]).float().to(self._device),
            torch.from_numpy(batch.groups[micro.members]).to(self._device),
        )

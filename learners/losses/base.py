"""The loss contract. B sequences of a micro-batch, T loss tokens (left-aligned, padded)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

__all__ = ["Denominators", "Loss", "LossInputs", "aggregate", "check_same_shape", "log_ratio"]

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossInputs:
    """What a loss may read; None is what its `inputs` did not ask for."""

    current: Tensor
    """[B, T] nats, log pi of the weights in training; carries gradient."""
    behaviour: Tensor
    """[B, T] nats, log mu recorded by the actor."""
    advantages: Tensor
    """[B, T] reward units."""
    proximal: Tensor | None = None
    """[B, T] nats, log pi of the weights at the start of the update."""
    reference: Tensor | None = None
    """[B, T] nats, log pi of the reference policy."""
    target: Tensor | None = None
    """[B, T] nats, log pi of the target network: weights of some updates ago."""
    entropy: Tensor | None = None
    """[B, T] nats."""
    values: Tensor | None = None
    """[B, T] reward units."""
    rewards: Tensor | None = None
    """[B] reward units."""
    groups: Tensor | None = None
    """[B] int64 group ordinal."""


@dataclass(frozen=True, slots=True)
class Denominators:
    """Counts over the global minibatch: all micro-batches of all ranks."""

    tokens: float
    """Loss tokens."""
    sequences: float
    """Sequences with a loss token."""


class Loss(Protocol):
    """A policy loss."""

    inputs: ClassVar[frozenset[str]]
    """Of current, behaviour, proximal, reference, target, values, rewards, entropy, logits."""
    coupling: ClassVar[str]
    """token | sequence | group | pair | batch"""

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return ([] loss to minimise, name -> [] detached metric), both additive over micro-batches.

        Args:
          mask: [B, T] bool, loss tokens.
        """
        ...


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes.

    Raises:
      ValueError: they differ; broadcasting would hide it.
    """
    if len({t.shape for t in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"these must have one shape: {shapes}")


def log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T] nats, numerator - denominator, and exactly 0 at padding.

    Padding is zeroed before any exp(): inf * 0 would put NaN into the gradient.
    """
    return torch.where(mask, numerator - denominator, 0.0)


def aggregate(per_token: Tensor, mask: Tensor, denominators: Denominators, aggregation: str) -> Tensor:
    """Return [] the reduced per-token loss.

    Args:
      per_token: [B, T].
      mask: [B, T] bool.
      aggregation: token (each token weighs the same, arXiv:2503.14476 sec. 3.3) or sequence
        (each sequence does, whatever its length, arXiv:2402.03300 eq. 3).

    Raises:
      ValueError: another aggregation.
    """
    masked = torch.where(mask, per_token, 0.0)
    if aggregation == "token":
        return masked.sum() / denominators.tokens
    if aggregation == "sequence":
        return (masked.sum(1) / mask.sum(1).clamp(min=1)).sum() / denominators.sequences
    raise ValueError(f"aggregation is {aggregation!r}; it must be token or sequence")

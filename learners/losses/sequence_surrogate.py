"""A clipped surrogate whose ratio belongs to the whole sequence. B sequences, T tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from learners.losses.base import Denominators, LossInputs, Metrics, aggregate, log_ratio
from learners.losses.clipped_surrogate import check_clip, clipped_surrogate

__all__ = ["SequenceSurrogate", "sequence_log_ratios"]


def sequence_log_ratios(log_ratios: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T]: the mean log-ratio of each sequence at each of its tokens, 0 at padding.

    Args:
      log_ratios: [B, T] nats, 0 at padding.
      mask: [B, T] bool.

    Source: arXiv:2507.18071 eq. 7 (its exp is the length-normalised likelihood ratio).
    """
    return (log_ratios.sum(1) / mask.sum(1).clamp(min=1))[:, None] * mask


@dataclass(frozen=True, kw_only=True)
class SequenceSurrogate:
    """GSPO: one ratio per sequence, every sequence weighs the same.

    Source: arXiv:2507.18071 eq. 5.
    """

    epsilon: float = 3e-4
    epsilon_high: float | None = 4e-4
    """None is `epsilon`."""
    inputs: ClassVar[frozenset[str]] = frozenset({"current", "behaviour"})
    coupling: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        check_clip(self.epsilon, self.epsilon_high)

    def __call__(self, tensors: LossInputs, mask: Tensor, denominators: Denominators) -> tuple[Tensor, Metrics]:
        """Return the loss and `policy/clip_frac`, the share of tokens in clipped sequences."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        ratios = sequence_log_ratios(log_ratio(tensors.current, tensors.behaviour, mask), mask)
        per_token, cut = clipped_surrogate(ratios, tensors.advantages, epsilon=self.epsilon, epsilon_high=high)
        loss = aggregate(per_token, mask, denominators, "sequence")
        return loss, {"policy/clip_frac": cut.sum() / denominators.tokens}

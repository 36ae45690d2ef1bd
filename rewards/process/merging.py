"""Steps seen twice: each by itself, and together with the step before it.

A fault that the next step repairs looks bad by itself and fine when both are read as one step.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fused", "merged_steps"]


def merged_steps(ends: Sequence[int]) -> list[list[int]]:
    """Return, for each step from the second on, step ends in which it is one with the step before.

    Args:
      ends: [K] where the steps end.

    Returns:
      [K - 1] lists of at most K - 1 ends: those up to the step, without the end of the step before it.
    """
    return [[*ends[: k - 1], ends[k]] for k in range(1, len(ends))]


def fused(fine: Sequence[float], coarse: Sequence[float]) -> list[float]:
    """Return the mean of each step's own score and of its merged one; the first step has no merged one.

    Args:
      fine: [K] scores of steps.
      coarse: [K - 1] scores of steps 2 to K, merged with the ones before.

    Source: arXiv:2503.13551 sec. 3.2; how the two are fused is left open there.
    """
    if len(coarse) != max(len(fine) - 1, 0):
        raise ValueError(f"{len(fine)} steps have {len(coarse)} merged scores; give one for each step but the first")
    return [*fine[:1], *[(a + b) / 2 for a, b in zip(fine[1:], coarse, strict=True)]]

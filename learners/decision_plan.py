"""Which fragments each optimiser step takes, and which of them are whose. Pure functions of ordinals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["passes", "plan_steps", "share"]


def plan_steps(count: int, *, minibatches: int, iterations: int, key: Sequence[int]) -> list[list[int]]:
    """Return the ordinals of each optimiser step's fragments, ascending.

    One minibatch is the whole batch. Several are cut anew in each pass from an order that (key, pass) decides.

    Args:
      count: fragments of the batch.
      minibatches: optimiser steps of a pass; fewer where there are fewer fragments.
      iterations: passes over the batch.
      key: what the shuffling depends on.
    """
    if minibatches == 1:
        return [list(range(count))] * iterations
    orders = [np.random.default_rng([*key, turn]).permutation(count) for turn in range(iterations)]
    cuts = [cut for order in orders for cut in np.array_split(order, min(minibatches, count))]
    return [sorted(cut.tolist()) for cut in cuts]


def share(rows: Sequence[int], rank: int, size: int) -> list[int]:
    """Return a rank's ordinals: every `size`-th."""
    return list(rows[rank::size])


def passes(rows: Sequence[int], size: int) -> list[list[int]]:
    """Return ordinals in runs of at most `size`."""
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]

"""Learning-rate schedules: pure functions of the update number."""

from __future__ import annotations

import math

from configs.errors import ConfigError, nearest

__all__ = ["learning_rate"]

SHAPES = ("constant", "linear", "cosine")


def learning_rate(peak: float, update: int, *, shape: str, warmup: int, total: int) -> float:
    """Return the learning rate of an update.

    Args:
      peak: the rate after the warm-up.
      update: 0 for the first.
      shape: constant | linear | cosine; the last two fall to 0 after update `total - 1`.
      warmup: updates of linear rise; the first one already learns.
      total: updates of the whole run.

    Raises:
      ConfigError: another shape.
    """
    if shape not in SHAPES:
        raise ConfigError(f"learner.schedule is {shape!r}, which is not known{nearest(shape, SHAPES)}")
    if update < warmup:
        return peak * (update + 1) / warmup
    if shape == "constant":
        return peak
    progress = min(1.0, (update - warmup) / max(1, total - warmup))
    return peak * (1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2)

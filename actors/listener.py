"""Who hears of progress: the metrics files and the view."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from actors.view import View
from buffers.records.metrics import MetricsWriter

__all__ = ["RunListener"]

EVALUATION = ("accuracy", "reward", "invalid", "return_mean", "success_rate", "len_mean")
"""Figures of an evaluation that are followed: of texts the first three, of episodes the others, where known."""


class RunListener:
    """Passes updates and evaluations on to files and terminal."""

    def __init__(self, metrics: MetricsWriter, view: View, *, updates: int) -> None:
        self._metrics, self._view, self._updates = metrics, view, updates

    def update(self, update: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None:
        self._metrics.log(update, metrics, time.time())
        self._view.update(update, self._updates, metrics, pools)

    def evaluation(self, update: int, result: Mapping[str, float]) -> None:
        known = {key: result[key] for key in EVALUATION if math.isfinite(result.get(key, math.nan))}
        self._metrics.log(update, {f"eval/held_out/{key}": value for key, value in known.items()}, time.time())
        self._view.evaluation(update, known)

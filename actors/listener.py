"""Who hears of progress: the metrics files and the view."""

from __future__ import annotations

import time
from collections.abc import Mapping

from actors.view import View
from buffers.records.metrics import MetricsWriter

__all__ = ["RunListener"]


class RunListener:
    """Passes updates and evaluations on to files and terminal."""

    def __init__(self, metrics: MetricsWriter, view: View, *, updates: int) -> None:
        self._metrics, self._view, self._updates = metrics, view, updates

    def update(self, update: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None:
        self._metrics.log(update, metrics, time.time())
        self._view.update(update, self._updates, metrics, pools)

    def evaluation(self, update: int, result: Mapping[str, float]) -> None:
        named = {f"eval/held_out/{key}": result[key] for key in ("accuracy", "reward", "invalid")}
        self._metrics.log(update, named, time.time())
        self._view.evaluation(update, result["accuracy"])

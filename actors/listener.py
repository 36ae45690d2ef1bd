"""Who hears of progress: the metrics files, the alarms and the view."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from actors.view import View
from buffers.records.alarm_log import AlarmLog
from buffers.records.alarms import AlarmWatch
from buffers.records.metrics import MetricsWriter, Sink
from configs.errors import RunError
from configs.schema import RunConfig

__all__ = ["RunListener"]

EVALUATION = ("accuracy", "reward", "invalid", "return_mean", "success_rate", "len_mean")
"""Figures of an evaluation that are followed: of texts the first three, of episodes the others, where known."""


class RunListener:
    """Passes updates and evaluations on to files and terminal, and raises alarms."""

    def __init__(self, config: RunConfig, folder: Path, view: View, sinks: Sequence[Sink] = ()) -> None:
        """Open the files of a run folder; metrics also go to `sinks`.

        Raises:
          ConfigError: W&B was asked for and is not installed.
        """
        logging, self._view, self._updates = config.logging, view, config.updates
        self._metrics = MetricsWriter(
            folder, logging.tensorboard, logging.wandb_project, config.name, asdict(config), sinks
        )
        self._alarms, self._alarm_log = AlarmWatch(config), AlarmLog(folder, time=time.time())

    def update(self, update: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None:
        """An update was made.

        Raises:
          RunError: an alarm of `alarms.fatal` was raised.
        """
        self._read(update, metrics)
        self._view.update(update, self._updates, metrics, pools)

    def warning(self, text: str) -> None:
        self._view.warning(text)

    def waiting(self, update: int, metrics: Mapping[str, float]) -> None:
        """There is no batch yet after `update`, and these figures are known meanwhile; raises as `update` does."""
        self._read(update, metrics)

    def evaluation(self, update: int, result: Mapping[str, float]) -> None:
        known = {key: result[key] for key in EVALUATION if math.isfinite(result.get(key, math.nan))}
        self._metrics.log(update, {f"eval/held_out/{key}": value for key, value in known.items()}, time.time())
        self._view.evaluation(update, known)

    def close(self) -> None:
        """Merge and flush the files."""
        self._metrics.close()

    def _read(self, update: int, metrics: Mapping[str, float]) -> None:
        now, changes = time.time(), self._alarms.read(metrics)
        self._metrics.log(update, {**metrics, **self._alarms.gauges()}, now)
        for change in changes:
            self._alarm_log.write(change, update=update, time=now)
        if changes:
            self._view.alarms(self._alarms.active)
        if fatal := [change for change in changes if change.fatal and change.raised]:
            raise RunError(f"alarm {fatal[0].alarm} ended the run (alarms.fatal): {fatal[0].text}")

"""Alarms: what calls for a person while a run goes on, beside its metrics and from nothing else.

    metrics of an update, or of a look while there is none -> AlarmWatch.read -> what was raised or cleared

An alarm is raised after `alarms.raise_after` readings in a row beyond its threshold and cleared after
`alarms.clear_after` within it. To add one: an entry in ALARMS, and its threshold in `configs/alarms.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from buffers.records.metric_names import matching
from configs.schema import RunConfig

__all__ = ["ALARMS", "Alarm", "AlarmWatch", "Change", "State", "step"]


def _as_set(config: RunConfig, threshold: float) -> float | None:
    return threshold


def _of_the_bound(config: RunConfig, share: float) -> float | None:
    return share * config.max_staleness if config.max_staleness else None


@dataclass(frozen=True)
class Alarm:
    """One line of the table; its threshold is the setting `alarms.<name>`."""

    name: str
    metric: str
    """Name in the glossary; each name that a placeholder stands for has an alarm of its own."""
    meaning: str
    remedy: str
    below: bool = False
    """Raised below the threshold, not above it."""
    limit: Callable[[RunConfig, float], float | None] = _as_set
    """(configuration, threshold) -> limit of the metric; None: it cannot be passed."""

    def beyond(self, value: float, limit: float) -> bool:
        """Return whether a value calls for a person; one that is not a number does."""
        return math.isnan(value) or (value < limit if self.below else value > limit)


ALARMS = (
    Alarm("mismatch_kl", "rollout/mismatch_kl/mean", "the learner and the engine disagree on probabilities",
          "lower max_staleness or learner.learning_rate, or use model.dtype=float32"),
    Alarm("staleness", "staleness/mean", "batches are nearly as old as they may be",
          "raise learner.ranks, lower rollout.workers, or allow more by max_staleness", limit=_of_the_bound),
    Alarm("spill", "object_store/spill_rate", "the object store spills to disk",
          "raise cluster.object_store_bytes, or lower buffer.max_bytes"),
    Alarm("abstained", "rewards/<component>/abstained", "a reward gives no verdicts",
          "read the replies: `launch.py query RUN \"SELECT detail FROM scores WHERE status = 'abstained'\"`"),
    Alarm("failed", "rewards/<component>/failed", "a reward fails",
          "read why: `launch.py query RUN \"SELECT status, detail FROM scores WHERE status <> 'ok'\"`"),
    Alarm("entropy", "policy/entropy", "the policy has collapsed, or is about to",
          "lower learner.learning_rate, or raise rollout.temperature or learner.beta", below=True),
    Alarm("learner_idle", "idle/learner", "the learner waits most of its time",
          "raise rollout.workers, the replicas of the busiest reward, or max_staleness"),
    Alarm("no_progress", "time/without_batch", "no batch comes",
          "see who is busy or queued in `launch.py status RUN`; the ledger holds what failed"),
    Alarm("label_lag", "intrinsic/reward_lag_p50_s", "labels take long to reach the reward model",
          "raise exploration.annotation.annotators"),
)  # fmt: skip


class State(NamedTuple):
    """Of one alarm."""

    raised: bool = False
    streak: int = 0
    """Readings in a row that speak against `raised`."""


def step(state: State, beyond: bool, *, raise_after: int, clear_after: int) -> State:
    """Return the state after one more reading."""
    if beyond == state.raised:
        return State(state.raised)
    streak = state.streak + 1
    if streak >= (clear_after if state.raised else raise_after):
        return State(not state.raised)
    return State(state.raised, streak)


class Change(NamedTuple):
    """An alarm that was raised or cleared."""

    alarm: str
    """Name, with what its placeholder stands for: `abstained:judge`."""
    raised: bool
    text: str
    """What happened, with value, limit and remedy."""
    fatal: bool = False


class AlarmWatch:
    """Follows all alarms of a run."""

    def __init__(self, config: RunConfig) -> None:
        settings = self._settings = config.alarms
        thresholds = {alarm: getattr(settings, alarm.name) for alarm in ALARMS}
        limits = {a: a.limit(config, value) for a, value in thresholds.items() if value is not None}
        self._limits = {alarm: limit for alarm, limit in limits.items() if limit is not None}
        self._states: dict[str, State] = {}
        self.active: dict[str, str] = {}
        """Raised alarm -> its text."""

    def read(self, metrics: Mapping[str, float]) -> list[Change]:
        """Take the metrics of an update, or of a look between two; return what changed."""
        found = []
        for alarm, limit in self._limits.items():
            for metric, of in matching(alarm.metric, metrics).items():
                name = f"{alarm.name}:{of}" if of else alarm.name
                if (change := self._step(alarm, name, metric, metrics[metric], limit)) is not None:
                    found.append(change)
        return found

    def gauges(self) -> dict[str, float]:
        """Return `alarm/<alarm>`: 1 where it is raised; of every alarm that was read so far."""
        return {f"alarm/{name}": float(state.raised) for name, state in self._states.items()}

    def _step(self, alarm: Alarm, name: str, metric: str, value: float, limit: float) -> Change | None:
        settings, before = self._settings, self._states.get(name, State())
        after = self._states[name] = step(
            before, alarm.beyond(value, limit), raise_after=settings.raise_after, clear_after=settings.clear_after
        )
        if after.raised == before.raised:
            return None
        if not after.raised:
            del self.active[name]
            return Change(name, False, f"{metric} is {value:.3g} again, within {limit:g}")
        side = "below" if alarm.below else "above"
        text = f"{alarm.meaning}: {metric} is {value:.3g}, {side} {limit:g} (alarms.{alarm.name}); {alarm.remedy}"
        self.active[name] = text
        return Change(name, True, text, fatal=alarm.name in settings.fatal)

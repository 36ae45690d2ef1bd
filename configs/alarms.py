"""Settings of alarms: when a run calls for a person."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from configs.errors import one_of, require

__all__ = ["AlarmsConfig"]


@dataclass(kw_only=True)
class AlarmsConfig:
    """A threshold for each alarm; null turns it off. `buffers.records.alarms` has what they read."""

    mismatch_kl: float | None = 0.1
    """Nats per token between what the engine recorded and what the learner computes before the update."""
    staleness: float | None = 0.9
    """Mean age of a batch, as a share of max_staleness."""
    spill: float | None = 0.0
    """Bytes per second that Ray's object store moves to disk."""
    abstained: float | None = 0.2
    """Share of a reward component's scores that are no verdict, such as replies of a judge that cannot be read."""
    failed: float | None = 0.1
    """Share of a reward component's scores that are time-outs or errors."""
    entropy: float | None = 0.01
    """Nats per token, or action; raised below it."""
    learner_idle: float | None = 0.9
    """Share of its time that the learner waits for a batch."""
    no_progress: float | None = 120.0
    """Seconds that the learner waits for one batch; at cluster.progress_deadline_s the run ends."""
    label_lag: float | None = 300.0
    """Seconds, median, from a label's arrival to the first score by a model that learned from it."""
    raise_after: int = 3
    """Readings in a row beyond the threshold that raise an alarm: updates, and looks every 2 s while there is none."""
    clear_after: int = 5
    """Readings in a row within it that clear the alarm."""
    fatal: list[str] = field(default_factory=list)
    """Alarms that end the run; without any, alarms only tell."""

    def __post_init__(self) -> None:
        for key, count in (("raise_after", self.raise_after), ("clear_after", self.clear_after)):
            require(count >= 1, f"alarms.{key}", count, "be >= 1", "3 and 5 are usual")
        for name in self.fatal:
            one_of("alarms.fatal", name, self.names())
            unset = f"name alarms with a threshold, and alarms.{name} is null"
            require(getattr(self, name) is not None, "alarms.fatal", name, unset, f"set alarms.{name}")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the alarms that there are."""
        others = ("raise_after", "clear_after", "fatal")
        return tuple(known.name for known in fields(cls) if known.name not in others)

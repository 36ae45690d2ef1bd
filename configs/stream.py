"""Settings of the buffer, and of what is kept on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.errors import one_of, require

__all__ = ["BufferConfig", "CheckpointConfig", "RetentionConfig"]

Component = dict[str, Any]


@dataclass(kw_only=True)
class BufferConfig:
    """What flows: order, staleness, filters, capacity."""

    sampler: Component = field(default_factory=lambda: {"target": "fifo"})
    filters: list[Component] = field(default_factory=list)
    staleness_policy: str = "wait"
    """wait: an update waits while a running sample would exceed the bound. drop: it is dropped and re-dispatched."""
    group_deadline_s: float = 300.0
    """Members still missing this long after a group's first token are failed."""
    max_attempts: int = 5
    """Tries at one slot before it is failed."""
    max_worker_kills: int = 3
    """Workers that may die of a slot before it is put in quarantine; in the last one it was alone."""
    max_failed_groups: int = 64
    """Groups that may fail, all since the start, before any sample has a reward; then the run stops and says why."""
    max_bytes: int = 1 << 30
    """Payload bytes held before admission pauses."""
    segment_bytes: int = 16 << 20
    """Size at which a segment file is closed and compacted to Parquet."""
    commit_interval_s: float = 0.02
    """Longest time that a row waits for its group commit."""
    fsync: bool = True

    def __post_init__(self) -> None:
        one_of("buffer.staleness_policy", self.staleness_policy, ("wait", "drop"))
        require(self.group_deadline_s > 0, "buffer.group_deadline_s", self.group_deadline_s, "be > 0", "300 is usual")
        require(self.max_attempts >= 1, "buffer.max_attempts", self.max_attempts, "be >= 1", "5 is usual")
        key, kills = "buffer.max_worker_kills", self.max_worker_kills
        require(kills >= 2, key, kills, "be >= 2", "one death is no proof: a worker holds many slots")
        require(
            self.max_failed_groups >= 1,
            "buffer.max_failed_groups",
            self.max_failed_groups,
            "be >= 1",
            "64 tells a broken input from a few bad tasks",
        )


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is kept."""

    every: int = 50
    """Updates between checkpoints; one is always written at the end and on Ctrl-C."""
    keep_last: int = 2
    keep_best: int = 1


@dataclass(kw_only=True)
class RetentionConfig:
    """What is let go of while a run goes on, at each checkpoint; checkpoints have `checkpoint.keep_last`, `keep_best`.

    Never what a resume from any kept checkpoint needs: `checkpoint.keep_best=0` lets go of old ones.
    """

    payload_updates: int | None = None
    """Keep the payloads of the last so many updates; None keeps all, as `replay` needs."""
    ledger_updates: int | None = None
    """Keep the events and scores of the last so many updates, and of older ones the totals; None keeps all."""

    def __post_init__(self) -> None:
        payloads, ledger = self.payload_updates, self.ledger_updates
        for key, count in (("payload_updates", payloads), ("ledger_updates", ledger)):
            require(count is None or count >= 1, f"retention.{key}", count, "be >= 1 or null", "null keeps all")
        require(
            ledger is None or (payloads is not None and payloads <= ledger),
            "retention.ledger_updates",
            ledger,
            f"not be below retention.payload_updates={payloads}, since payloads need their events",
            "raise it, or lower retention.payload_updates",
        )

    @property
    def is_set(self) -> bool:
        return self.payload_updates is not None

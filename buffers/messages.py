"""What crosses process boundaries between worker, buffer and learner driver."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from buffers.identity import Slot

__all__ = ["Failure", "Reply", "Ticket"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An attempt that produced no trajectory."""

    slot: Slot
    attempt: int
    reason: str
    retry: bool
    """False where another attempt would fail the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A worker's answer to one exchange."""

    table: pa.Table | None
    """Finished trajectories; many records per message."""
    failures: tuple[Failure, ...]
    capacity: int
    """Further units that the worker would take now."""
    in_flight: int
    stats: dict[str, float] = field(default_factory=dict)
    """Counters since the worker started; `pauses` are sent as they occur."""
    pauses: tuple[float, ...] = ()
    """Seconds that each weight swap since the last reply held generation up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A batch that is ready; its payload is fetched with `batch_table(version)`."""

    version: int
    """The consuming version."""
    samples: int
    tokens: int
    """Sampled tokens."""
    ages: list[int]
    """Consuming version minus oldest version, per sample."""
    metrics: dict[str, float]

"""Events and score attempts as the ledger's rows: built once per commit, thousands at a time.

A table costs a tenth of a millisecond however few rows it has, so nothing is converted call by call.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from buffers.identity import Slot
from buffers.scores import Score
from buffers.tables import EVENTS, SCORES

__all__ = ["Event", "EventCall", "EventKind", "ScoreCall", "event_table", "score_table"]


class EventKind(enum.StrEnum):
    """What happened to an attempt; the last four end it."""

    ADMITTED = "admitted"
    GENERATED = "generated"
    SCORED = "scored"
    BATCHED = "batched"
    TRAINED = "trained"
    DROPPED = "dropped"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


KINDS = pa.array([kind.value for kind in EventKind], pa.string())
KIND_INDEX = {kind: index for index, kind in enumerate(EventKind)}


@dataclass(slots=True)
class Event:
    """One step of one attempt."""

    kind: EventKind
    slot: Slot
    attempt: int
    node: int = 0
    version: int | None = None
    """Batched and trained: the consuming version, whose weights the update started from."""
    reason: str = ""
    """Why dropped, failed or rolled back; "replay" marks training that repeats an earlier one."""
    worker: str | None = None
    """Generated: the rollout worker that did it."""
    reward: float | None = None
    """Scored and trained: the total reward, by the weights of its time; None where it is invalid."""


class EventCall(NamedTuple):
    """Events that were recorded together."""

    seq: int
    """Of the first one; the others follow."""
    time: float
    """Seconds since the Unix epoch."""
    events: Sequence[Event]


class ScoreCall(NamedTuple):
    """Score attempts that were recorded together."""

    time: float
    scores: Sequence[tuple[str, Score]]
    """(trajectory id, score)"""
    update_version: int | None = None
    """Of scores that were given to a batch: its consuming version."""


def event_table(calls: Sequence[EventCall], *, run_epoch: int, lineage: int) -> pa.Table:
    """Return one row per event, in order; `calls` follow each other without a gap in `seq`."""
    events = [event for call in calls for event in call.events]
    counts = [len(call.events) for call in calls]
    sources, epochs, tasks, samples = zip(*(e.slot for e in events), strict=True) if events else ((), (), (), ())
    kinds = np.array([KIND_INDEX[e.kind] for e in events], np.int32)
    columns = {
        "seq": np.arange(calls[0].seq, calls[0].seq + len(events), dtype=np.int64),
        "time": np.repeat([call.time for call in calls], counts),
        "run_epoch": np.full(len(events), run_epoch, np.int32),
        "lineage": np.full(len(events), lineage, np.int32),
        "event": pa.DictionaryArray.from_arrays(pa.array(kinds), KINDS),
        # `identity.trajectory_id`, written out: it is called for every step of every sample.
        "id": [f"{s}:{p}:{t}:{n}.{e.attempt}.{e.node}" for e in events for s, p, t, n in (e.slot,)],
        "source": sources,
        "epoch": epochs,
        "task": tasks,
        "sample": samples,
        "attempt": [e.attempt for e in events],
        "node": [e.node for e in events],
        "reason": [e.reason for e in events],
        "version": [e.version for e in events],
        "worker": [e.worker for e in events],
        "reward": [e.reward for e in events],
    }
    return pa.table(columns, schema=EVENTS)


def score_table(calls: Sequence[ScoreCall]) -> pa.Table:
    """Return one row per score attempt, in order."""
    rows = [row for call in calls for row in call.scores]
    scores = [score for _, score in rows]
    columns = {
        "trajectory_id": [trajectory for trajectory, _ in rows],
        "component": [s.component for s in scores],
        "version": [s.version for s in scores],
        "attempt": [s.attempt for s in scores],
        "value": [s.value for s in scores],
        "vector": [s.vector for s in scores],
        "span_values": [s.span_values for s in scores],
        "spans": [[{"kind": p.kind, "start": p.start, "end": p.end} for p in s.spans] for s in scores],
        "status": [s.status.value for s in scores],
        "detail": [s.detail for s in scores],
        "latency_s": [s.latency_s for s in scores],
        "time": np.repeat([call.time for call in calls], [len(call.scores) for call in calls]),
        "update_version": [call.update_version for call in calls for _ in call.scores],
    }
    return pa.table(columns, schema=SCORES)

"""Continuing a run from its ledger.

Weights of version v were made by the samples trained at versions below v. After a restart from v,
whatever was trained at v or later is rolled back, and every group that is neither trained nor given
up is generated again as new attempts of the same slots; so nothing is lost and nothing is trained
twice in the surviving lineage. Sampling is keyed by the slot, not by the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from buffers.identity import GroupKey, Slot, trajectory_id
from buffers.ledger import Event, EventKind, Ledger
from buffers.records.lineage import VersionRow, surviving_versions
from buffers.retired import Retired, read_retired
from buffers.stream import StreamBuffer
from buffers.streams import read_stream
from buffers.tables import EVENTS, VERSIONS
from buffers.trajectory import Task

__all__ = ["DRAINED", "RESTARTED", "Recovered", "recover"]

DRAINED = "run_ended"
RESTARTED = "restart"


class SeekableTasks(Protocol):
    tasks_per_epoch: int

    def seek(self, ordinal: int) -> None: ...

    def task_at(self, ordinal: int) -> tuple[int, int, Task]: ...


@dataclass(slots=True)
class _SlotHistory:
    attempt: int = 0
    last: str = ""
    reason: str = ""
    trained: list[tuple[int, int, int]] = field(default_factory=list)
    """(attempt, node, version) trained in the surviving lineage."""


@dataclass(kw_only=True)
class Recovered:
    """What the ledger says at the moment of a restart."""

    version: int
    lineage: int
    slots: Mapping[Slot, _SlotHistory]
    origin: VersionRow | None
    """The row of `version` in the lineage that goes on; None for a new run."""
    retired: Retired = field(default_factory=Retired)
    """Groups that ended long ago; `slots` has none of theirs."""

    @property
    def trained_groups(self) -> int:
        """Groups whose training is part of the weights."""
        kept = {s.group for s, h in self.slots.items() if any(v < self.version for _, _, v in h.trained)}
        return len(kept) + self.retired.trained_groups

    def trained_by_task(self) -> dict[int, set[str]]:
        """Return task (of decision runs: lane) -> ids of its trajectories that are part of the weights."""
        found: dict[int, set[str]] = {}
        for slot, history in self.slots.items():
            kept = {trajectory_id(slot, attempt, node) for attempt, node, v in history.trained if v < self.version}
            if kept:
                found.setdefault(slot.task, set()).update(kept)
        return found

    def replay_into(self, buffer: StreamBuffer, ledger: Ledger, tasks: SeekableTasks) -> None:
        """Write the roll-back and reopen what is unfinished, in the order of identity."""
        groups: dict[GroupKey, dict[int, _SlotHistory]] = {}
        for slot, history in self.slots.items():
            groups.setdefault(slot.group, {})[slot.sample] = history
        ordinals = {key: key.epoch * tasks.tasks_per_epoch + key.task for key in groups}
        self._begin_lineage(ledger)
        ledger.record(self._closing_events())
        tasks.seek(max(ordinals.values(), default=self.retired.ledger_below - 1) + 1)
        for key in sorted(groups, key=ordinals.__getitem__):
            if self._unfinished(groups[key]):
                attempts = {sample: history.attempt for sample, history in groups[key].items()}
                buffer.restore(ordinals[key], tasks.task_at(ordinals[key]), attempts)

    def _begin_lineage(self, ledger: Ledger) -> None:
        """Write the row of the version that the lineage begins with: what came after it is no part of it.

        It is on disk before the roll-back, so that a kill in between leaves no version without its training.
        """
        if self.origin is not None and self.version > 0:  # the driver writes version 0
            ledger.record_version(
                version=self.version,
                parent=self.origin.parent,
                weights_sha256=self.origin.weights_sha256,
                trained_digest=self.origin.trained_digest,
                num_trained=self.origin.num_trained,
            )
            ledger.flush()

    def _unfinished(self, members: Mapping[int, _SlotHistory]) -> bool:
        if any(version < self.version for h in members.values() for _, _, version in h.trained):
            return False
        given_up = {EventKind.DROPPED.value, EventKind.FAILED.value}
        # Dropped for the restart itself: a kill can come between that row and the next attempt's.
        for_now = (DRAINED, RESTARTED)
        return any(h.trained or h.last not in given_up or h.reason in for_now for h in members.values())

    def _closing_events(self) -> list[Event]:
        events = []
        final = {EventKind.DROPPED.value, EventKind.FAILED.value, EventKind.TRAINED.value, EventKind.ROLLED_BACK.value}
        for slot, history in self.slots.items():
            for attempt, node, version in history.trained:
                if version >= self.version:
                    events.append(Event(EventKind.ROLLED_BACK, slot, attempt, node, version=version, reason=RESTARTED))
            if history.last not in final:
                events.append(Event(EventKind.DROPPED, slot, history.attempt, reason=RESTARTED))
        return events


def recover(run_folder: Path, *, version: int) -> Recovered:
    """Read the ledger of a run that continues with weights `version`; an empty one is a new run."""
    columns = ["lineage", "event", "source", "epoch", "task", "sample", "attempt", "node", "version", "reason"]
    rows: list[dict[str, Any]] = read_stream(run_folder / "ledger", "events", EVENTS).select(columns).to_pylist()
    slots: dict[Slot, _SlotHistory] = {}
    retired = read_retired(run_folder)
    for row in rows:
        if retired.covers(row["epoch"], row["task"]):
            continue
        history = slots.setdefault(Slot(row["source"], row["epoch"], row["task"], row["sample"]), _SlotHistory())
        _apply(history, row)
    versions = surviving_versions(run_folder)
    # A crash can leave the version row of a lineage and none of its events.
    numbered = read_stream(run_folder / "ledger", "versions", VERSIONS)["lineage"].to_pylist()
    lineage = max((*(row["lineage"] for row in rows), *numbered), default=-1) + 1
    origin = next((row for row in versions if row.version == version), None)
    return Recovered(version=version, lineage=lineage, slots=slots, origin=origin, retired=retired)


def _apply(history: _SlotHistory, row: Mapping[str, Any]) -> None:
    if row["reason"] == "replay":
        return  # it was trained before: a repetition that was cut short leaves nothing open
    key = (row["attempt"], row["node"], row["version"])
    if row["event"] == EventKind.TRAINED.value:
        history.trained.append(key)
    elif row["event"] == EventKind.ROLLED_BACK.value and key in history.trained:
        history.trained.remove(key)
    history.attempt = max(history.attempt, row["attempt"])
    history.last, history.reason = row["event"], row["reason"]

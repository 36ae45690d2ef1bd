"""Promises that must hold at every step, on every torn disk, and at the end."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
from sim_scenario import Scenario
from sim_witness import Violation, Witness, slot_of

from buffers.groups import MemberState
from buffers.host import BufferHost
from buffers.quarantine import quarantined
from buffers.records.audit import audit
from buffers.records.lineage import SurvivingLineage
from buffers.segments import read_stream
from buffers.tables import EVENTS, SCORES, TRAJECTORY

__all__ = ["check_books", "check_buffer", "check_disk"]


def check_buffer(host: BufferHost, scenario: Scenario) -> None:
    """Admission within its formula, and every slot in exactly one place."""
    buffer = host._buffer
    if buffer.draining:
        return  # nothing is admitted any more; what waits is only written off
    live = buffer._trained_groups + len(buffer._groups)
    most = (scenario.max_staleness + buffer.version + 1) * scenario.groups
    if live > most:
        raise Violation(f"{live} groups are accepted or running at version {buffer.version}; {most} may be")
    waiting = [m for g in buffer._groups.values() for m in g.members if m.state is MemberState.PENDING]
    # As many and no strangers: the same ones, each once.
    if len(buffer._pending) != len(waiting) or any(m.state is not MemberState.PENDING for m in buffer._pending):
        raise Violation(f"slots to be leased are {buffer._pending}, slots that wait to be leased are {waiting}")


def check_disk(path: Path, judged: str) -> None:
    """A ledger row never precedes its payload, nor training its scores, whatever a power cut left.

    Args:
      judged: arrival | batch, when scores are given.
    """
    if not (path / "ledger").is_dir():
        return
    events = read_stream(path / "ledger", "events", EVENTS)
    generated = events.filter(pc.equal(pc.cast(events["event"], "string"), "generated"))["id"].to_pylist()
    stored = set(read_stream(path / "trajectories", "trajectories", TRAJECTORY)["id"].to_pylist())
    if bare := [i for i in generated if i not in stored]:
        raise Violation(f"after a power cut the ledger has rows without a payload: {bare}")
    trained = events.filter(pc.equal(pc.cast(events["event"], "string"), "trained"))
    scored = read_stream(path / "ledger", "scores", SCORES).select(["trajectory_id", "update_version"]).to_pylist()
    known = {(row["trajectory_id"], row["update_version"]) for row in scored}
    for name, version in zip(trained["id"].to_pylist(), trained["version"].to_pylist(), strict=True):
        if (name, version if judged == "batch" else None) not in known:
            raise Violation(f"after a power cut the ledger lacks the score that {name} was trained with at {version}")


def check_books(path: Path, witness: Witness) -> None:
    """The audit balances, and the ledger's surviving lineage is what the learner was trained on."""
    books = audit(path)
    if not books.balanced:
        raise Violation(f"the audit found: {books.problems}")
    lineage = SurvivingLineage.load(path)
    recorded = {row.parent: sorted(b) for row, b in zip(lineage.chain, lineage.batches, strict=True) if b}
    trained = {version: sorted(ids) for version, ids in witness.lineage.trained.items()}
    if recorded != trained:
        raise Violation(f"the ledger says {recorded} was trained, the learner {trained}")


def check_quarantine(path: Path, witness: Witness, *, alone: bool) -> None:
    """What kills workers is never trained.

    Args:
      alone: nothing else killed workers; then all that killed thrice is in quarantine, and nothing else is.
    """
    found = set(quarantined(path))
    trained = {slot_of(i) for ids in witness.lineage.trained.values() for i in ids}
    if bad := trained & witness.killed.keys():
        raise Violation(f"trained, although its worker died: {sorted(bad)}")
    if alone and found != (killers := {slot for slot, kills in witness.killed.items() if kills >= 3}):
        raise Violation(f"in quarantine are {sorted(found)}, workers died of {sorted(killers)}")

"""A balanced run stays balanced only while every row of every source is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded_run import CURSOR, Epoch, checkpoint, group, record_run, trajectory

from buffers.ledger import EventKind
from buffers.records.audit import Audit, audit
from buffers.run_folder import RunFolder
from buffers.schema import to_table
from configs.errors import DataError

TOTALS = {
    "admitted": 13,
    "generated": 10,
    "scored": 10,
    "trained": 6,
    "dropped": 4,
    "failed": 1,
    "rolled_back": 2,
    "in_flight": 0,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "run")


def file_of(run: Path, stream: str) -> Path:
    (path,) = run.glob(f"*/{stream}-*.parquet")
    return path


def without_row(path: Path, row: int) -> None:
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.array(np.arange(len(table)) != row)), path)


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_run_with_a_crash_and_a_resume_balances(run: Path) -> None:
    assert audit(run) == Audit(TOTALS, True, [])
    ends = [TOTALS[name] for name in ("trained", "dropped", "failed", "rolled_back", "in_flight")]
    assert TOTALS["admitted"] == sum(ends)


def test_deleting_a_ledger_event_of_any_kind_is_noticed(run: Path) -> None:
    """The first one of each kind and epoch, and the last one of each epoch."""
    path = file_of(run, "events")
    whole = path.read_bytes()
    rows = pq.read_table(path, columns=["run_epoch", "event"]).to_pylist()
    firsts = {rows.index(row) for row in rows}
    lasts = {len(rows) - 1, sum(row["run_epoch"] == 1 for row in rows) - 1}
    for at in firsts | lasts:
        without_row(path, at)
        found = audit(run)
        assert not found.balanced and found.problems, f"event {at}: {rows[at]}"
        assert at in lasts or found.problems[0].startswith("events are missing or repeated just before: 1")
        path.write_bytes(whole)


def test_deleting_a_payload_is_noticed_and_named(run: Path) -> None:
    path = file_of(run, "trajectories")
    whole = path.read_bytes()
    for row, name in list(enumerate(pq.read_table(path)["id"].to_pylist()))[::4]:
        without_row(path, row)
        assert audit(run).problems == [f"generated trajectories without a payload: 1: {name}"]
        path.write_bytes(whole)


def test_another_digest_of_a_version_is_noticed(run: Path) -> None:
    path = file_of(run, "versions")
    rows = pq.read_table(path)
    table = pa.Table.from_pylist([r | {"trained_digest": "0"} if r["version"] == 3 else r for r in rows.to_pylist()])
    pq.write_table(table.cast(rows.schema), path)
    (problem,) = audit(run).problems
    assert problem.startswith("version 3 has trained_digest '0', the ledger's ids give")


def test_deleting_any_version_that_led_to_the_newest_one_is_noticed(run: Path) -> None:
    path = file_of(run, "versions")
    whole = path.read_bytes()
    rows = pq.read_table(path).to_pylist()
    assert [(r["lineage"], r["version"]) for r in rows] == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 3)]
    for row in (1, 3, 4):
        without_row(path, row)
        assert not audit(run).balanced, f"version row {row}"
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [{"groups_issued": 3}, {"groups_issued": 5}, {"source": "sub"}, {"tasks_per_epoch": 4}, {"num_generations": 3}],
)
def test_another_cursor_is_noticed(run: Path, change: dict[str, object]) -> None:
    edit(run / "ledger" / "cursor.json", **change)
    assert any("slots issued" in p or "slots admitted" in p for p in audit(run).problems)


def test_a_missing_cursor_is_noticed(run: Path) -> None:
    (run / "ledger" / "cursor.json").unlink()
    assert audit(run).problems == [
        "ledger/cursor.json lacks source, first, groups_issued, num_generations, tasks_per_epoch"
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trained_count": 5}, "counts 5 trained trajectories, the ledger has 8"),
        ({"trained_digest": "0"}, "has trained_digest '0', the ledger's ids give"),
        ({"version": 9}, "is of version 9, which the ledger's surviving lineage does not have"),
    ],
)
def test_another_checkpoint_is_noticed(run: Path, change: dict[str, object], problem: str) -> None:
    path = run / "checkpoints" / "v3" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"progress": state["progress"] | change}))
    (found,) = audit(run).problems
    assert problem in found


def test_an_unreadable_checkpoint_is_named(run: Path) -> None:
    (run / "checkpoints" / "v3" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"v3/state.json lacks version"):
        audit(run)


def test_a_checkpoint_that_is_being_written_is_not_read(run: Path) -> None:
    (run / "checkpoints" / ".partial-v4").mkdir()
    (run / "checkpoints" / ".partial-v4" / "state.json").write_text("{")
    assert audit(run).balanced


def continued(run: Path) -> tuple[RunFolder, Epoch]:
    folder = RunFolder.open(run)
    folder.write_run({"status": "finished"})
    return folder, Epoch(folder, lineage=2)


@pytest.mark.parametrize(
    ("kind", "tries", "version", "reason", "problem"),
    [
        (EventKind.TRAINED, group(0)[:1], 3, "", "trajectories trained more than once: 1: add:0:0:0.0.0"),
        (EventKind.DROPPED, group(0)[:1], None, "stale", "both trained and dropped or failed: 1: add:0:0:0.0.0"),
        (EventKind.GENERATED, group(0)[:1], None, "", "generated more than once: 1: add:0:0:0.0.0"),
        (EventKind.GENERATED, group(3)[:1], None, "", "generated trajectories without a payload: 1: add:1:0:0.0.0"),
        (EventKind.ADMITTED, group(0, 1), None, "", "slots trained and dispatched again: 2: add:0:0:0.0, add:0:0:1.0"),
        (EventKind.ADMITTED, group(0, 2), None, "", "attempts without the attempt before: 2"),
        (
            EventKind.ADMITTED,
            group(4) + group(4, 1),
            None,
            "",
            "replaced though they had no end: 2: add:1:1:0.0, add:1:1:1.0",
        ),
        (EventKind.ADMITTED, group(4), None, "", "slots in flight: 2: add:1:1:0.0, add:1:1:1.0"),
        (EventKind.ADMITTED, group(0)[:1], None, "", "attempts not admitted exactly once: 1: add:0:0:0.0"),
        (EventKind.FAILED, group(3)[:1], None, "", "attempts ended without a reason: 1: add:1:0:0.0"),
        (
            EventKind.ROLLED_BACK,
            group(0)[:1],
            0,
            "restart",
            "version 1 was trained on 2 trajectories, the ledger has 1",
        ),
        (EventKind.SCORED, group(3)[:1], None, "", "scored before they were generated: 1: add:1:0:0.0.0"),
        (EventKind.TRAINED, group(3)[1:], 3, "", "trained into no surviving version: 1: add:1:0:1.0.0"),
        (EventKind.TRAINED, group(3)[1:], 3, "", "without being scored and batched: 1: add:1:0:1.0.0"),
    ],
)
def test_each_broken_rule_names_the_ids(
    run: Path, kind: EventKind, tries: list[object], version: int | None, reason: str, problem: str
) -> None:
    folder, epoch = continued(run)
    epoch.record(kind, tries, version, reason)  # type: ignore[arg-type]
    epoch.close()
    folder.close()
    assert any(problem in p for p in audit(run).problems), audit(run).problems


def test_payloads_without_a_ledger_row_are_orphans_unless_their_attempt_ended(run: Path) -> None:
    folder, epoch = continued(run)
    for a_try in (group(3)[1], (group(0)[0][0], 7)):  # dropped at the end of the run; unknown
        epoch.payloads.append(to_table([trajectory(*a_try)])).result(10)
    epoch.close()
    folder.close()
    assert audit(run).problems == ["orphan payloads: 1: add:0:0:0.7.0"]


def test_a_payload_stored_twice_is_noticed(run: Path) -> None:
    folder, epoch = continued(run)
    epoch.payloads.append(to_table([trajectory(*group(0)[0])])).result(10)
    epoch.close()
    folder.close()
    assert audit(run).problems == ["trajectories stored more than once: 1: add:0:0:0.0.0"]


def test_an_open_run_may_have_work_in_flight_and_an_older_cursor(run: Path) -> None:
    with RunFolder.open(run) as folder:
        folder.write_run({"status": "running"})
        epoch = Epoch(folder, lineage=2)
        epoch.record(EventKind.ADMITTED, group(4))
        epoch.payloads.append(to_table([trajectory(*group(4)[0])])).result(10)
        epoch.record(EventKind.ADMITTED, group(5))
        epoch.generate(group(5))
        for kind in (EventKind.BATCHED, EventKind.TRAINED):
            epoch.record(kind, group(5), 3)
        epoch.ledger.flush()
        assert audit(run).problems == []
        # The newest version's row may be on disk before the events of its batch.
        epoch.ledger.record_version(version=4, parent=3, weights_sha256="w", trained_digest="-", num_trained=9).result(
            10
        )
        found = audit(run)
        assert found.problems == []
        assert found.totals["in_flight"] == 2 and found.totals["trained"] == 8


def test_a_problem_names_twenty_ids_and_counts_the_rest(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        epoch = Epoch(folder, lineage=0)
        epoch.record(EventKind.ADMITTED, [a_try for ordinal in range(20) for a_try in group(ordinal)])
        epoch.ledger.write_cursor({**CURSOR, "groups_issued": 20})
        epoch.close()
        folder.write_run({"status": "stopped"})
    (problem,) = audit(tmp_path / "run").problems
    assert problem.startswith("slots in flight: 40: add:0:0:0.0, ") and problem.count("add:") == 20


def test_a_run_that_made_nothing_balances(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run"):
        pass
    assert audit(tmp_path / "run") == Audit(dict.fromkeys(TOTALS, 0), True, [])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        audit(tmp_path)


def test_the_newest_checkpoint_counts(run: Path) -> None:
    checkpoint(run, 5, "x", 1)
    assert "v5/state.json is of version 5" in audit(run).problems[0]

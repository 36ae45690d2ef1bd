"""Retention: old files go, the books still balance, and nothing that a resume needs is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_run import CURSOR, Epoch, Try, checkpoint, group

from buffers.epochs import stream_files
from buffers.identity import Slot
from buffers.ledger import EventKind, Ledger
from buffers.records.audit import audit
from buffers.records.commands import query_run
from buffers.records.query import query
from buffers.records.retention import retire
from buffers.recovery import recover
from buffers.retired import Retired, read_retired, refuse_retired
from buffers.run_folder import RunFolder
from buffers.schema import TRAJECTORY
from buffers.segments import SegmentWriter
from buffers.streams import read_stream
from configs.errors import ConfigError, DataError, StaleEpoch
from configs.load import load_config
from configs.stream import RetentionConfig

UPDATES = 12
RULE = RetentionConfig(payload_updates=2, ledger_updates=4)


class SmallFiles(Epoch):
    """An epoch that starts a file with every commit."""

    def __init__(self, folder: RunFolder, lineage: int = 0) -> None:
        small = {"run_epoch": folder.epoch, "segment_bytes": 1, "commit_interval_s": 0.0}
        self.ledger = Ledger(folder.path / "ledger", lineage=lineage, **small)
        self.payloads = SegmentWriter(folder.path / "trajectories", "trajectories", TRAJECTORY, **small)


def write_run(path: Path, *, end: Callable[[SmallFiles], None] = lambda epoch: None, stuck: int | None = None) -> Path:
    """Write a run in which group v trains version v, while group v + 1 is generated; one file per commit.

    Args:
      end: what happens behind the last update.
      stuck: this group is never trained; it is dropped as the run ends.
    """
    with RunFolder.create(path) as folder:
        epoch = SmallFiles(folder)
        epoch.ledger.record_version(version=0, parent=None, weights_sha256="w", trained_digest="", num_trained=0)
        digest, version, trained = "", 0, 0
        start(epoch, group(0))
        for ordinal in range(UPDATES):
            start(epoch, group(ordinal + 1))
            if ordinal != stuck:
                digest, version, trained = epoch.train(group(ordinal), version, digest), version + 1, trained + 2
                checkpoint(path, version, digest, trained)
            epoch.ledger.flush()
        for old in range(1, version - 1):
            shutil.rmtree(path / "checkpoints" / f"v{old}")  # the last two are kept
        end(epoch)
        for left in (stuck, UPDATES):
            epoch.record(EventKind.DROPPED, [] if left is None else group(left), reason="run_ended")
        epoch.ledger.write_cursor({**CURSOR, "groups_issued": UPDATES + 1})
        epoch.close()
        folder.write_run({"status": "finished"})
    return path


def start(epoch: SmallFiles, tries: list[Try]) -> None:
    epoch.record(EventKind.ADMITTED, tries)
    epoch.generate(tries)
    epoch.ledger.flush()


def let_go(path: Path, rule: RetentionConfig = RULE, *, memory: int = 0, version: int = UPDATES) -> Retired:
    """Retire in a new session of the run."""
    with RunFolder.open(path) as folder:
        epoch = SmallFiles(folder, lineage=1)
        try:
            return retire(path, rule, memory, epoch.ledger, epoch.payloads, version)
        finally:
            epoch.close()


def files(path: Path) -> dict[str, int]:
    streams = (("ledger", "events"), ("ledger", "scores"), ("trajectories", "trajectories"))
    return {stream: len(stream_files(path / folder, stream)) for folder, stream in streams}


def test_old_files_go_and_the_books_still_balance(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    before, size = audit(path), files(path)
    assert before.balanced, before.problems
    retired = let_go(path)
    after = audit(path)
    assert after.balanced, after.problems
    assert after.totals == before.totals and "first 10 groups" in after.retired
    # Horizon of the payloads: version 12 - 2 = 10; of the ledger: 12 - 4 = 8. Group v trains version v.
    assert (retired.payloads_below, retired.ledger_below, retired.version, retired.trained_groups) == (10, 8, 8, 8)
    kept = {row["task"] + 3 * row["epoch"] for row in query(path, "SELECT epoch, task FROM trajectories").to_pylist()}
    assert kept == set(range(10, UPDATES + 1))
    assert all(files(path)[stream] < size[stream] for stream in size)


def test_what_a_resume_needs_is_what_it_was(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    for version in (UPDATES - 1, UPDATES):  # the two checkpoints
        before = recover(path, version=version)
        shutil.copytree(path, tmp_path / f"v{version}")
        let_go(tmp_path / f"v{version}", RetentionConfig(payload_updates=1, ledger_updates=1))
        after = recover(tmp_path / f"v{version}", version=version)
        assert (after.trained_groups, after.lineage) == (before.trained_groups, before.lineage)
        assert after.slots == {slot: h for slot, h in before.slots.items() if ordinal(slot) >= 11}


def ordinal(slot: Slot) -> int:
    return slot.epoch * 3 + slot.task


def test_the_oldest_checkpoint_and_the_samplers_memory_hold_files_back(tmp_path: Path) -> None:
    rule = RetentionConfig(payload_updates=1)
    path = write_run(tmp_path / "run")
    checkpoint(path, 5, "kept as the best", 10)
    assert let_go(path, rule).payloads_below == 5
    shutil.rmtree(path / "checkpoints" / "v5")
    assert let_go(path, rule, memory=3).payloads_below == 8
    assert let_go(path, rule).payloads_below == 11  # checkpoint v11 is the oldest one
    assert let_go(path, rule, memory=3).payloads_below == 11  # what is gone does not come back


def test_an_open_group_holds_back_all_behind_it(tmp_path: Path) -> None:
    retired = let_go(write_run(tmp_path / "run", stuck=6), version=UPDATES - 1)
    assert (retired.payloads_below, retired.ledger_below) == (6, 6)  # a resume generates group 6 again


@pytest.mark.parametrize("last_word", ["nothing", "run_ended", "restart"])
def test_a_group_that_will_be_generated_again_holds_back_all_behind_it_however_old(
    tmp_path: Path, last_word: str
) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        epoch, digest = SmallFiles(folder), ""
        epoch.ledger.record_version(version=0, parent=None, weights_sha256="w", trained_digest="", num_trained=0)
        for ordinal in range(4):
            start(epoch, group(ordinal))
        if last_word != "nothing":
            epoch.record(EventKind.DROPPED, group(1), reason=last_word)
        for version, ordinal in enumerate((0, 2, 3)):
            digest = epoch.train(group(ordinal), version, digest)
        checkpoint(folder.path, 3, digest, 6)
        epoch.ledger.write_cursor({**CURSOR, "groups_issued": 4})
        epoch.ledger.flush()
        retired = retire(folder.path, RetentionConfig(payload_updates=1), 0, epoch.ledger, epoch.payloads, 3)
        epoch.close()
    assert retired.payloads_below == 1


def test_retiring_step_by_step_keeps_the_same_books_as_retiring_at_once(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    checkpoint(path, 6, "kept for now", 12)
    shutil.copytree(path, tmp_path / "once")
    first = let_go(path, RetentionConfig(payload_updates=1, ledger_updates=1))
    for folder in (path, tmp_path / "once"):
        shutil.rmtree(folder / "checkpoints" / "v6")
    second, once = (let_go(folder) for folder in (path, tmp_path / "once"))
    assert (first.ledger_below, second.ledger_below) == (6, 8)
    assert (second.trained_groups, second.totals) == (once.trained_groups, once.totals)
    assert audit(path).balanced and audit(path).totals == audit(tmp_path / "once").totals


def test_training_that_was_rolled_back_is_not_old(tmp_path: Path) -> None:
    def crash(epoch: SmallFiles) -> None:
        epoch.record(EventKind.ROLLED_BACK, group(9), 9, "restart")
        epoch.record(EventKind.ADMITTED, group(9, 1))
        epoch.generate(group(9, 1))

    assert let_go(write_run(tmp_path / "run", end=crash), RetentionConfig(payload_updates=1)).payloads_below == 9


def test_a_crash_between_the_record_and_the_deletion_changes_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    shutil.copytree(path, tmp_path / "copy")
    let_go(path)
    left = files(path)
    for old in (tmp_path / "copy").glob("*/*.parquet"):  # as if nothing had been deleted
        shutil.copy(old, path / old.parent.name / old.name)
    books = audit(path)
    assert books.balanced, books.problems
    assert books.totals == audit(tmp_path / "copy").totals
    assert recover(path, version=UPDATES).trained_groups == UPDATES
    let_go(path)
    assert {stream: count for stream, count in files(path).items() if count > left[stream] + 1} == {}
    assert audit(path).balanced


@pytest.mark.parametrize("stream", ["events", "trajectories"])
def test_a_file_that_vanished_otherwise_is_still_noticed(tmp_path: Path, stream: str) -> None:
    path = write_run(tmp_path / "run")
    let_go(path)
    folder = "trajectories" if stream == "trajectories" else "ledger"
    stream_files(path / folder, stream)[0].path.unlink()
    assert not audit(path).balanced


def test_the_retained_digest_is_compared(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    let_go(path)
    record = path / "ledger" / "retired.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "trained_digest": "another"}))
    assert ["what was retired had another" in problem for problem in audit(path).problems] == [True]
    record.write_text("{")
    with pytest.raises(DataError, match="restore it from a copy"):
        audit(path)


def test_an_orphaned_writer_retires_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    with RunFolder.open(path) as folder:
        orphan = SmallFiles(folder, lineage=1)
    with RunFolder.open(path):
        size = files(path)
        with pytest.raises(StaleEpoch):
            retire(path, RULE, 0, orphan.ledger, orphan.payloads, UPDATES)
    assert files(path) == size and read_retired(path) == Retired()


def test_replay_and_query_say_what_is_retired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run")
    refuse_retired(path, "replay")
    let_go(path)
    with pytest.raises(DataError, match=r"payloads of the first 10 groups are retired .* replay needs all of them"):
        refuse_retired(path, "replay")
    assert query_run([str(path), "SELECT 1 AS one"]) == 0
    assert "first 8 too (retention.ledger_updates)" in capsys.readouterr().err


def test_without_a_rule_everything_stays(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    rows = read_stream(path / "trajectories", "trajectories", TRAJECTORY).num_rows
    assert let_go(path, RetentionConfig()).payloads_below == 0
    assert read_stream(path / "trajectories", "trajectories", TRAJECTORY).num_rows == rows


@pytest.mark.parametrize(
    "words", [["retention.payload_updates=0"], ["retention.ledger_updates=3"],
              ["retention.payload_updates=4", "retention.ledger_updates=3"]]
)  # fmt: skip
def test_rules_that_would_lose_what_payloads_need_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="retention"):
        load_config([], words)

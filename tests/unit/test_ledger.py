"""What the ledger records is what readers find."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from buffers.files import OsFiles
from buffers.identity import Slot
from buffers.ledger import Event, EventKind, Ledger, Pair, read_cursor
from buffers.schema import EVENTS, PAIRS, SCORES, VERSIONS
from buffers.scores import Score, ScoreStatus
from buffers.segments import begin_epoch, read_stream
from buffers.trajectory import Span
from configs.errors import DataError

SLOT = Slot("add", 1, 2, 3)


def ledger(folder: Path, files: OsFiles | None = None) -> Ledger:
    epoch = begin_epoch(folder)
    return Ledger(folder, run_epoch=epoch, lineage=4, commit_interval_s=0, clock=lambda: 12.5, files=files)


def test_an_event_row_says_who_what_and_when(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.record(
        [Event(EventKind.TRAINED, SLOT, 5, 6, version=7, reward=0.5), Event(EventKind.DROPPED, SLOT, 5, reason="stale")]
    )
    book.close()
    trained, dropped = read_stream(tmp_path, "events", EVENTS).to_pylist()
    assert trained | {"seq": 0} == {
        "seq": 0,
        "time": 12.5,
        "run_epoch": 1,
        "lineage": 4,
        "event": "trained",
        "id": "add:1:2:3.5.6",
        "source": "add",
        "epoch": 1,
        "task": 2,
        "sample": 3,
        "attempt": 5,
        "node": 6,
        "version": 7,
        "worker": None,
        "reward": 0.5,
        "reason": "",
    }
    assert (dropped["event"], dropped["version"], dropped["reason"]) == ("dropped", None, "stale")


def test_numbers_of_events_rise_over_calls_and_over_epochs(tmp_path: Path) -> None:
    for _ in range(2):
        book = ledger(tmp_path)
        book.record([Event(EventKind.ADMITTED, SLOT, 0)] * 3)
        book.record([])
        book.record([Event(kind, SLOT, 0) for kind in EventKind])
        book.flush()
    numbers = read_stream(tmp_path, "events", EVENTS)["seq"].to_pylist()
    assert len(numbers) == 22 and numbers == sorted(set(numbers))
    assert [n - numbers[11] for n in numbers[11:]] == list(range(11))


def test_scores_keep_validity_vectors_and_spans(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    score = Score(
        value=0.5, component="prm", version=3, vector=(1.0, 2.0), span_values=(0.1,), spans=(Span("step", 0, 2),)
    )
    invalid = Score.invalid(ScoreStatus.TIMEOUT, "10 s passed", component="judge", attempt=2, latency_s=10.0)
    book.record_scores([("a", score), ("b", invalid)]).result(10)
    good, bad = read_stream(tmp_path, "scores", SCORES).to_pylist()
    assert (good["trajectory_id"], good["value"], good["vector"], good["version"]) == ("a", 0.5, [1.0, 2.0], 3)
    assert good["spans"] == [{"kind": "step", "start": 0, "end": 2}] and good["span_values"] == [0.1]
    assert (bad["value"], bad["status"], bad["detail"], bad["attempt"]) == (None, "timeout", "10 s passed", 2)
    book.close()


def test_pairs_and_versions_are_recorded(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.record_pairs([Pair("a", "b", 1.0, revision=2)])
    book.record_version(version=1, parent=None, weights_sha256="w", trained_digest="", num_trained=0)
    book.close()
    (pair,) = read_stream(tmp_path, "pairs", PAIRS).to_pylist()
    assert (pair["left_id"], pair["right_id"], pair["weight"], pair["revision"]) == ("a", "b", 1.0, 2)
    (version,) = read_stream(tmp_path, "versions", VERSIONS).to_pylist()
    assert (version["lineage"], version["version"], version["parent"], version["model"]) == (4, 1, None, "policy")


def test_the_cursor_is_replaced_whole(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert read_cursor(tmp_path) == {}
    book.write_cursor({"groups_issued": 1, "source": "add"})
    book.write_cursor({"groups_issued": 2})
    assert read_cursor(tmp_path) == {"groups_issued": 2}


class FullDisk(OsFiles):
    def sync(self, handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")


def test_a_caller_that_ignores_futures_still_meets_the_error(tmp_path: Path) -> None:
    book = ledger(tmp_path, files=FullDisk())
    book.record([Event(EventKind.ADMITTED, SLOT, 0)]).exception(10)
    with pytest.raises(DataError, match=r"events-e0001-000000.seg.*no space left"):
        book.record([])
    with pytest.raises(DataError, match="no space left"):
        book.record_scores([])

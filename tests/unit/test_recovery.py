"""What a resume makes of a ledger whose last life was cut short."""

from __future__ import annotations

from pathlib import Path

from buffers.epochs import begin_epoch
from buffers.identity import Slot
from buffers.ledger import Event, EventKind, Ledger
from buffers.recovery import recover
from buffers.streams import read_stream
from buffers.tables import VERSIONS

SLOT = Slot("add", 0, 0, 0)


def test_a_replay_that_was_cut_short_leaves_its_sample_trained(tmp_path: Path) -> None:
    """Found by the simulation: the sample was then both trained and dropped."""
    book = Ledger(tmp_path / "ledger", run_epoch=begin_epoch(tmp_path / "ledger"), lineage=0)
    kinds = (EventKind.ADMITTED, EventKind.GENERATED, EventKind.SCORED)
    book.record([Event(kind, SLOT, 0) for kind in kinds])
    book.record([Event(kind, SLOT, 0, version=3) for kind in (EventKind.BATCHED, EventKind.TRAINED)])
    book.record([Event(EventKind.BATCHED, SLOT, 0, version=4, reason="replay")])
    book.close()
    recovered = recover(tmp_path, version=4)
    assert recovered.trained_groups == 1
    assert recovered._closing_events() == []


def test_a_lineage_of_which_only_a_version_row_was_kept_is_not_numbered_again(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger", run_epoch=begin_epoch(tmp_path / "ledger"), lineage=5)
    book.record_version(version=1, parent=0, weights_sha256="", trained_digest="", num_trained=0)
    book.close()
    assert recover(tmp_path, version=0).lineage == 6


def test_a_lineage_that_begins_at_version_0_leaves_its_row_to_the_driver(tmp_path: Path) -> None:
    """The driver publishes version 0 and records it; a row written here too would be its second one."""
    folder = tmp_path / "ledger"
    first = Ledger(folder, run_epoch=begin_epoch(folder), lineage=0)
    for version, parent in ((0, None), (1, 0)):
        first.record_version(version=version, parent=parent, weights_sha256="", trained_digest="", num_trained=0)
    first.close()
    written = {}
    for version in (0, 1):
        book = Ledger(folder, run_epoch=begin_epoch(folder), lineage=version + 1)
        recover(tmp_path, version=version)._begin_lineage(book)
        book.close()
        rows = read_stream(folder, "versions", VERSIONS).to_pylist()
        written[version] = sum(row["lineage"] == version + 1 for row in rows)
    assert written == {0: 0, 1: 1}

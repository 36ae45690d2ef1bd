"""Segments on a healthy disk, damaged bytes, and run folders."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buffers import ipc
from buffers.files import OsFiles
from buffers.frames import decode, encode
from buffers.ipc import from_ipc, to_ipc
from buffers.run_folder import RunFolder, read_run
from buffers.segments import GROUP_BYTES, SegmentWriter, begin_epoch, read_stream
from configs.errors import Corruption, DataError, DeadlineExceeded, StaleEpoch

NUMBERS = pa.schema([pa.field("n", pa.int64(), nullable=False)], metadata={b"headrace.table": b"numbers"})


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": list(values)}, schema=NUMBERS)


def stored(folder: Path) -> list[int]:
    return read_stream(folder, "numbers", NUMBERS)["n"].to_pylist()


def writer(folder: Path, epoch: int = 1, segment_bytes: int = 1 << 20, files: OsFiles | None = None) -> SegmentWriter:
    return SegmentWriter(
        folder, "numbers", NUMBERS, run_epoch=epoch, segment_bytes=segment_bytes, commit_interval_s=0, files=files
    )


def frame(*values: int) -> bytes:
    return bytes(encode(numbers(*values)))


class SlowFiles(OsFiles):
    """Waits in every sync until `go` is set."""

    def __init__(self) -> None:
        self.go, self.syncing, self.syncs = threading.Event(), threading.Event(), 0

    def sync(self, handle: int) -> None:
        self.syncs += 1
        self.syncing.set()
        self.go.wait(10)


def test_a_slice_crosses_without_its_parent() -> None:
    whole = numbers(*range(10_000))
    sent = to_ipc(whole.slice(5000, 3))
    assert from_ipc(sent).equals(numbers(5000, 5001, 5002))
    assert sent.size < 1000 < to_ipc(whole).size


def test_a_table_that_is_measured_first_has_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.concat_tables([numbers(*range(200)), numbers(7)])
    grown = to_ipc(table, 24)
    monkeypatch.setattr(ipc, "LARGE", 0)
    assert to_ipc(table, 24).equals(grown) and from_ipc(grown.slice(24)).equals(table)
    assert from_ipc(to_ipc(table.slice(5, 3))).equals(numbers(5, 6, 7))


def test_rows_are_readable_once_their_future_is_done(tmp_path: Path) -> None:
    live = writer(tmp_path)
    for value in range(5):
        live.append(numbers(value, value)).result(10)
        assert stored(tmp_path) == [v for v in range(value + 1) for _ in range(2)]
    live.close()


def test_a_stream_that_was_never_written_is_an_empty_table(tmp_path: Path) -> None:
    assert read_stream(tmp_path / "nowhere", "numbers", NUMBERS).equals(NUMBERS.empty_table())


def test_rows_that_arrive_during_a_sync_share_the_next_one(tmp_path: Path) -> None:
    files = SlowFiles()
    live = writer(tmp_path, files=files)
    first = live.append(numbers(0))
    files.syncing.wait(10)
    rest = [live.append(numbers(value)) for value in range(1, 50)]
    assert not first.done()
    files.go.set()
    for future in rest:
        future.result(10)
    assert files.syncs == 2 and stored(tmp_path) == list(range(50))
    live.close()


def test_rows_behind_a_large_group_do_not_hold_it_up(tmp_path: Path) -> None:
    large = pa.table({"n": pa.nulls(GROUP_BYTES // 8, pa.int64()).fill_null(0)}, schema=NUMBERS)
    files = SlowFiles()
    live = writer(tmp_path, segment_bytes=1 << 30, files=files)
    first = live.append(numbers(0))
    files.syncing.wait(10)
    rest = [live.append(table) for table in (numbers(1), large, numbers(2), numbers(3))]
    files.go.set()
    for future in (first, *rest):
        future.result(60)
    assert files.syncs == 3, "0; 1 and the large one; 2 and 3"
    rows = stored(tmp_path)
    assert (rows[:2], rows[-2:], len(rows)) == ([0, 1], [2, 3], 4 + len(large))
    live.close()


def test_full_segments_become_one_parquet_file_each_and_closing_merges_the_rest(tmp_path: Path) -> None:
    live = writer(tmp_path, segment_bytes=1000)
    for value in range(10):
        live.append(numbers(value)).result(10)
    live.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names[0] == "numbers-e0001-000000.parquet" and all(n.endswith(".parquet") for n in names)
    assert 2 <= len(names) < 10 and stored(tmp_path) == list(range(10))


def test_what_a_killed_epoch_left_is_merged_with_the_next_ones_rows(tmp_path: Path) -> None:
    for epoch in (1, 2):
        writer(tmp_path, begin_epoch(tmp_path)).append(numbers(epoch)).result(10)  # never closed
    last = writer(tmp_path, begin_epoch(tmp_path))
    last.append(numbers(3)).result(10)
    last.close()
    assert [p.name for p in tmp_path.glob("numbers*")] == ["numbers-e0003-000000.parquet"]
    assert stored(tmp_path) == [1, 2, 3]
    assert read_stream(tmp_path, "numbers", NUMBERS, newest_epoch=2).num_rows == 0


def test_later_epochs_can_be_left_out(tmp_path: Path) -> None:
    for epoch in (1, 2):
        writer(tmp_path, begin_epoch(tmp_path)).append(numbers(epoch)).result(10)
    assert read_stream(tmp_path, "numbers", NUMBERS, newest_epoch=1)["n"].to_pylist() == [1]


def test_extension_columns_may_appear_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    live = writer(tmp_path)
    live.append(numbers(1)).result(10)
    live.append(numbers(2).append_column("x_mark", pa.array(["a"]))).result(10)
    live.close()
    assert read_stream(tmp_path, "numbers", NUMBERS).to_pylist() == [{"n": 1, "x_mark": None}, {"n": 2, "x_mark": "a"}]


def test_rows_of_a_cancelled_waiter_are_stored_and_the_writer_goes_on(tmp_path: Path) -> None:
    files = SlowFiles()
    live = writer(tmp_path, files=files)
    live.append(numbers(1))
    files.syncing.wait(10)
    assert live.append(numbers(2)).cancel()
    files.go.set()
    live.append(numbers(3)).result(10)
    assert stored(tmp_path) == [1, 2, 3]
    live.close()


def test_flush_and_close_say_what_they_wait_for(tmp_path: Path) -> None:
    files = SlowFiles()
    live = writer(tmp_path, files=files)
    live.append(numbers(1))
    with pytest.raises(DeadlineExceeded, match=r"numbers.*not on disk after 0.01 s"):
        live.flush(0.01)
    with pytest.raises(DeadlineExceeded, match=r"numbers.*not closed after 0.01 s"):
        live.close(0.01)
    files.go.set()
    live.close()
    with pytest.raises(DataError, match="is closed"):
        live.append(numbers(2)).result(10)


def test_a_second_writer_of_an_epoch_is_refused(tmp_path: Path) -> None:
    writer(tmp_path).append(numbers(1)).result(10)
    with pytest.raises(DataError, match="another writer of epoch 1; begin a new epoch"):
        writer(tmp_path).append(numbers(2)).result(10)


def test_a_writer_of_an_older_epoch_is_refused_at_once(tmp_path: Path) -> None:
    begin_epoch(tmp_path)
    begin_epoch(tmp_path)
    with pytest.raises(StaleEpoch, match="epoch 1 was fenced off by epoch 2"):
        writer(tmp_path, epoch=1)


def test_bytes_and_files_that_an_orphan_adds_after_the_fence_do_not_count(tmp_path: Path) -> None:
    writer(tmp_path, begin_epoch(tmp_path)).append(numbers(1)).result(10)
    (tmp_path / "epoch-0002.claim").touch()  # an epoch whose process died before it began
    assert begin_epoch(tmp_path) == 3
    with (tmp_path / "numbers-e0001-000000.f0003.seg").open("ab") as segment:
        segment.write(frame(2))
    (tmp_path / "numbers-e0001-000001.seg").write_bytes(frame(3))
    pa.parquet.write_table(numbers(1, 2, 3), tmp_path / "numbers-e0001-000002.parquet")
    assert stored(tmp_path) == [1]
    assert begin_epoch(tmp_path) == 4 and stored(tmp_path) == [1]


FRAMES = [frame(*range(k)) for k in (3, 200, 0, 1)]
WHOLE = b"".join(FRAMES)
HERE = Path("numbers.seg")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE)))
def test_a_cut_file_gives_its_whole_frames_or_is_refused(size: int) -> None:
    ends = [sum(map(len, FRAMES[: k + 1])) for k in range(len(FRAMES))]
    assert len(decode(WHOLE[:size], HERE, may_be_torn=True)) == sum(end <= size for end in ends)
    if size not in (0, *ends):
        with pytest.raises(Corruption, match=r"numbers.seg: the frame at byte"):
            decode(WHOLE[:size], HERE, may_be_torn=False)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_bit_anywhere_is_refused_with_its_offset(at: int, flip: int) -> None:
    """Also in the last frame: it is complete, so it was acknowledged."""
    damaged = bytearray(WHOLE)
    damaged[at] ^= flip
    start = max(s for s in (sum(map(len, FRAMES[:k])) for k in range(len(FRAMES))) if s <= at)
    with pytest.raises(Corruption, match=f"numbers.seg: the frame at byte {start} "):
        decode(bytes(damaged), HERE, may_be_torn=True)


@pytest.mark.parametrize("damage", ["zeros", "cut"])
def test_damage_before_a_sound_frame_is_never_taken_for_a_torn_write(damage: str) -> None:
    first, middle, last = (frame(*range(k)) for k in (1, 500, 2))
    harmed = middle[:1024] + bytes(1024) + middle[2048:] if damage == "zeros" else middle[:1000]
    with pytest.raises(Corruption, match=rf"the frame at byte {len(first)} "):
        decode(first + harmed + last, HERE, may_be_torn=True)
    assert len(decode(first + harmed, HERE, may_be_torn=True)) == 1


def test_only_the_last_segment_of_an_epoch_may_be_torn(tmp_path: Path) -> None:
    first, last = tmp_path / "numbers-e0001-000000.seg", tmp_path / "numbers-e0001-000001.seg"
    first.write_bytes(frame(1))
    last.write_bytes(frame(2) + frame(3)[:-1])
    assert stored(tmp_path) == [1, 2]
    first.write_bytes(frame(1)[:-1])
    with pytest.raises(Corruption, match=r"numbers-e0001-000000.seg"):
        stored(tmp_path)


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    live = writer(tmp_path)
    live.append(numbers(*range(1000))).result(10)
    live.close()
    path = tmp_path / "numbers-e0001-000000.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corruption, match=r"numbers-e0001-000000.parquet"):
        stored(tmp_path)


def test_a_reader_follows_a_writer_that_rotates_and_merges(tmp_path: Path) -> None:
    live = writer(tmp_path, segment_bytes=600)
    seen = 0
    for value in range(60):
        live.append(numbers(value))
        rows = stored(tmp_path)
        assert rows == list(range(len(rows))) and len(rows) >= seen
        seen = len(rows)
    live.close()
    assert stored(tmp_path) == list(range(60))


def test_a_file_that_vanishes_while_it_is_read_is_looked_for_again_and_then_reported(tmp_path: Path) -> None:
    (tmp_path / "numbers-e0001-000000.seg").symlink_to(tmp_path / "merged meanwhile")
    with pytest.raises(Corruption, match="'numbers' kept vanishing; run one writer per folder"):
        stored(tmp_path)


def test_a_run_folder_has_one_owner_and_counts_epochs(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.create(path) as owner:
        owner.write_run({"status": "running"})
        assert read_run(path) == {"status": "running", "epoch": 1}
        with pytest.raises(DataError, match=r"in use by pid \d+"):
            RunFolder.open(path)
        assert owner.begin_epoch() == 2
    with RunFolder.open(path) as again:
        assert again.epoch == 3
        assert writer(path / "trajectories", again.epoch).append(numbers(1)).result(10) is None
    with pytest.raises(DataError, match="resume=true"):
        RunFolder.create(path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_run(tmp_path)

"""Segments under power cuts, refusing disks and epochs that begin at the worst moment."""

from __future__ import annotations

import errno
import itertools
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pytest
from crashing_files import SILENT, CrashingFiles, HookedFiles

from buffers.files import OsFiles, write_atomically
from buffers.segments import SegmentWriter, begin_epoch, read_stream
from configs.errors import DataError, RunError, StaleEpoch

NUMBERS = pa.schema([pa.field("n", pa.int64(), nullable=False)], metadata={b"headrace.table": b"numbers"})


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": list(values)}, schema=NUMBERS)


def stored(folder: Path) -> list[int]:
    return read_stream(folder, "numbers", NUMBERS)["n"].to_pylist()


def writer(folder: Path, epoch: int, files: OsFiles, segment_bytes: int = 1000) -> SegmentWriter:
    return SegmentWriter(
        folder, "numbers", NUMBERS, run_epoch=epoch, segment_bytes=segment_bytes, commit_interval_s=0, files=files
    )


def live_through(folder: Path, files: HookedFiles) -> tuple[list[int], bool]:
    """Write 0, 1, 2, ... in two epochs with rotation and merging; return what was acknowledged."""
    acknowledged: list[int] = []
    try:
        for epoch_values, segment_bytes in ((range(4), 1000), (range(4, 7), 5000), (range(7, 9), 5000)):
            open_writer = writer(folder, begin_epoch(folder, files=files), files, segment_bytes)
            for value in epoch_values:
                open_writer.append(numbers(value)).result(10)
                acknowledged.append(value)
            if epoch_values.start != 4:  # the second epoch dies without closing; the third one merges what it left
                open_writer.close()
    except (OSError, RunError):
        return acknowledged, False
    return acknowledged, True


def test_a_power_cut_at_any_operation_loses_no_acknowledged_row(tmp_path: Path) -> None:
    """Also afterwards the folder works: a new epoch appends to what was recovered."""
    images = 0
    for crash_at in itertools.count(1):
        folder = tmp_path / str(crash_at)
        folder.mkdir()
        files = CrashingFiles(crash_at)
        acknowledged, survived = live_through(folder, files)
        if survived:
            break
        seen: set[tuple[tuple[str, bytes], ...]] = set()
        for disk in files.disks():
            key = tuple(sorted(disk.items()))
            if key in seen:
                continue
            seen.add(key)
            image = tmp_path / f"{crash_at}-{len(seen)}"
            image.mkdir()
            for name, data in disk.items():
                (image / name).write_bytes(data)
            rows = stored(image)
            assert rows in (acknowledged, [*acknowledged, len(acknowledged)]), f"crash {crash_at}, disk {sorted(disk)}"
            if len(seen) == 1 + crash_at % 3:
                continue_in(image, rows)
        images += len(seen)
    assert acknowledged == list(range(9))
    assert crash_at > 40 and images > 100


def continue_in(folder: Path, rows: list[int]) -> None:
    again = writer(folder, begin_epoch(folder, files=SILENT), SILENT)
    again.append(numbers(100)).result(10)
    again.close()
    assert stored(folder) == [*rows, 100]
    assert not list(folder.glob("*.tmp"))


def test_an_epoch_may_begin_at_any_operation_of_an_orphaned_writer(tmp_path: Path) -> None:
    """What the orphan had acknowledged stays; what it writes later is refused and never read."""
    for fence_at in itertools.count(1):
        folder = tmp_path / str(fence_at)
        folder.mkdir()
        acknowledged: list[int] = []
        fenced = []

        def fence(
            number: int, name: str, folder: Path = folder, at: int = fence_at, fenced: list[int] = fenced
        ) -> None:
            if number == at:
                fenced.append(begin_epoch(folder, files=SILENT))

        epoch = begin_epoch(folder, files=SILENT)
        orphan = writer(folder, epoch, HookedFiles(fence))
        try:
            for value in range(6):
                orphan.append(numbers(value)).result(10)
                acknowledged.append(value)
            orphan.close()
        except RunError as error:
            assert isinstance(error, StaleEpoch), error
        rows = stored(folder)
        assert rows in (acknowledged, [*acknowledged, len(acknowledged)])
        if not fenced:
            break
        successor = writer(folder, epoch + 1, SILENT)
        successor.append(numbers(100)).result(10)
        successor.close()
        assert stored(folder) == [*rows, 100]
    assert fence_at > 15


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_from_any_operation_on_is_named_and_a_freed_one_goes_on(tmp_path: Path, code: int) -> None:
    """Refusals inside `begin_epoch` too: no epoch begins then, and the next try finds everything."""
    for refuse_at in itertools.count(1):
        folder = tmp_path / str(refuse_at)
        folder.mkdir()

        def refuse(number: int, name: str, at: int = refuse_at) -> None:
            if number >= at:
                raise OSError(code, "disk says no")

        files = HookedFiles(refuse)
        acknowledged, survived = live_through(folder, files)
        if survived:
            break
        rows = stored(folder)
        # Refused at its sync, a row was written all the same.
        assert rows in (acknowledged, [*acknowledged, len(acknowledged)]), f"refused from operation {refuse_at} on"
        continue_in(folder, rows)
    assert refuse_at > 40


def test_small_files_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """run.json, cursor.json and the epochs' marks: a reader finds the old bytes or the new ones after any power cut."""
    for crash_at in itertools.count(1):
        folder = tmp_path / str(crash_at)
        folder.mkdir()
        files = CrashingFiles(crash_at)
        written, found = [], set()
        try:
            for content in (b"{}", b'{"status": "running"}', b'{"status": "finished"}'):
                write_atomically(folder / "run.json", content, files)
                written.append(content)
        except OSError:
            pass
        else:
            break
        for disk in files.disks():
            found.add(disk.get("run.json"))
        expected = [b"{}", b'{"status": "running"}', b'{"status": "finished"}'][: len(written) + 1]
        assert found <= {*expected[-2:], *([None] if not written else [])}, f"crash {crash_at}: {found}"
    assert crash_at > 15


@pytest.mark.parametrize("operation", ["create", "write", "sync", "sync_folder"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refusing_disk_fails_the_rows_and_all_that_follow(tmp_path: Path, operation: str, code: int) -> None:
    armed = []

    def refuse(number: int, name: str) -> None:
        if armed and name == operation:
            raise OSError(code, "disk says no")

    files = HookedFiles(refuse)
    open_writer = writer(tmp_path, begin_epoch(tmp_path), files, segment_bytes=10)  # every commit starts a segment
    open_writer.append(numbers(1)).result(10)
    armed.append(True)
    failing: list[Future[None]] = [open_writer.append(numbers(2)), open_writer.append(numbers(3))]
    for future in failing:
        with pytest.raises(DataError, match=r"numbers.*disk says no.*not stored"):
            future.result(10)
    armed.clear()
    with pytest.raises(DataError, match="not stored"):
        open_writer.append(numbers(4)).result(10)
    with pytest.raises(DataError, match="not stored"):
        open_writer.flush(10)
    with pytest.raises(DataError, match="not stored"):
        open_writer.close()
    assert stored(tmp_path)[:1] == [1] and 4 not in stored(tmp_path)

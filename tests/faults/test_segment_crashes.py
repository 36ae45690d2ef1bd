"""Segments under power cuts, refusing disks and epochs that begin at the worst moment."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pytest

from buffers.files import OsFiles
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


class HookedFiles(OsFiles):
    """Calls `hook(number, name of the operation)` before each operation; syncs cost nothing."""

    def __init__(self, hook: Callable[[int, str], None]) -> None:
        self.hook, self.operations = hook, 0

    def step(self, name: str) -> None:
        self.operations += 1
        self.hook(self.operations, name)

    def create(self, path: Path) -> int:
        self.step("create")
        return super().create(path)

    def write(self, handle: int, data: bytes) -> None:
        self.step("write")
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        self.step("sync")

    def close(self, handle: int) -> None:
        super().close(handle)
        self.step("close")

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self.step("remove")
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self.step("sync_folder")


SILENT = HookedFiles(lambda number, name: None)


class Content:
    def __init__(self) -> None:
        self.data, self.synced = b"", 0


class CrashingFiles(HookedFiles):
    """Loses power before operation `crash_at`, and knows what a disk may hold then."""

    def __init__(self, crash_at: int) -> None:
        super().__init__(self.maybe_crash)
        self.crash_at, self.crashed = crash_at, False
        self.live: dict[str, Content] = {}
        self.durable: dict[str, Content] = {}
        self.removed: set[str] = set()  # since the folder was synced
        self.handles: dict[int, Content] = {}

    def maybe_crash(self, number: int, name: str) -> None:
        self.crashed |= number >= self.crash_at
        if self.crashed:
            raise OSError(errno.EIO, "power cut")

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self.handles[handle] = self.live[path.name] = Content()
        return handle

    def write(self, handle: int, data: bytes) -> None:
        if self.operations + 1 == self.crash_at:
            self.handles[handle].data += data  # the cut comes while it is being written
        super().write(handle, data)
        self.handles[handle].data += data

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self.handles[handle].synced = len(self.handles[handle].data)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.live[target.name] = self.live.pop(source.name)

    def remove(self, path: Path) -> None:
        super().remove(path)
        del self.live[path.name]
        self.removed.add(path.name)

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.durable, self.removed = dict(self.live), set()

    def disks(self) -> Iterator[dict[str, bytes]]:
        """Yield the folders that the cut may leave: names changed, unchanged or only removed; data torn."""
        only_removals = {n: c for n, c in self.durable.items() if n not in self.removed}
        for names in (self.live, self.durable, only_removals):
            for tear in (lost, whole, cut_short, zeroed):
                yield {name: c.data[: c.synced] + tear(c.data[c.synced :]) for name, c in names.items()}


def lost(data: bytes) -> bytes:
    return b""


def whole(data: bytes) -> bytes:
    return data


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed(data: bytes) -> bytes:
    """The file has its new length, but no sector of the write reached the disk."""
    return bytes(len(data))


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

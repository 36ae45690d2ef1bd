"""The operations that durability rests on, with a power cut or a refusal before any one of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from buffers.files import OsFiles

__all__ = ["SILENT", "CrashingFiles", "HookedFiles"]


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

    def write(self, handle: int, data: bytes | memoryview) -> None:
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

    def write(self, handle: int, data: bytes | memoryview) -> None:
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

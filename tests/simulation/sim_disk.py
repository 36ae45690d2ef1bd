"""A disk that loses what was not synced, refuses, and stalls; and commits that wait for virtual time."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from pathlib import Path

from sim_network import current_process

from buffers.files import OsFiles

__all__ = ["Disk", "Port", "VirtualCommits"]


class Disk:
    """Real files, and how many bytes of each have been synced."""

    def __init__(self) -> None:
        self.synced: dict[Path, int] = {}

    def tear(self, rng: random.Random) -> None:
        """The power is cut: unsynced bytes vanish, stay, stay in part, or come back as zeros."""
        for path, synced in sorted(self.synced.items()):
            if not path.exists() or (size := path.stat().st_size) == synced:
                continue
            kept = rng.choice([synced, size, rng.randint(synced, size)])
            data = path.read_bytes()[:kept]
            if rng.random() < 0.3:
                data = data[:synced] + bytes(len(data) - synced)
            path.write_bytes(data)
            self.synced[path] = len(data)


class Port(OsFiles):
    """One life's access to the disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk, self.off = disk, False
        self.refusals: list[int] = []
        """errno of the next writes and syncs."""
        self._open: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        self._ready()
        handle = super().create(path)
        self._open[handle] = path
        self.disk.synced[path] = 0
        return handle

    def write(self, handle: int, data: bytes | memoryview) -> None:
        self._ready(may_refuse=True)
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        """Synced bytes are counted where the file is now: a new epoch may have renamed it."""
        self._ready(may_refuse=True)
        path = self._open[handle]
        if path in self.disk.synced and path.exists():
            self.disk.synced[path] = path.stat().st_size

    def close(self, handle: int) -> None:
        super().close(handle)
        self._open.pop(handle, None)

    def rename(self, source: Path, target: Path) -> None:
        self._ready()
        super().rename(source, target)
        if source in self.disk.synced:
            self.disk.synced[target] = self.disk.synced.pop(source)

    def remove(self, path: Path) -> None:
        self._ready()
        super().remove(path)
        self.disk.synced.pop(path, None)

    def sync_folder(self, folder: Path) -> None:
        self._ready()

    def _ready(self, may_refuse: bool = False) -> None:
        if self.off:
            raise OSError(errno.EIO, "the power is cut")
        if may_refuse and self.refusals:
            raise OSError(self.refusals.pop(), "the disk refuses")


class VirtualCommits:
    """Commits on the event loop, after the interval and whatever the disk takes."""

    def __init__(
        self, rng: random.Random, commit: Callable[[], None], end: Callable[[], None], interval_s: float, name: str
    ) -> None:
        self._rng, self._commit, self._end, self._interval_s = rng, commit, end, interval_s
        self._timer: asyncio.TimerHandle | None = None

    def request(self, *, urgent: bool) -> None:
        if urgent:
            self._fire()
        elif self._timer is None:
            stall_s = self._rng.lognormvariate(-3.5, 1.5)
            self._timer = asyncio.get_running_loop().call_later(self._interval_s + stall_s, self._fire)

    def finish(self, deadline_s: float) -> bool:
        self._fire()
        self._end()
        return True

    def _fire(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        process = current_process()
        if process is None or process.alive:
            self._commit()

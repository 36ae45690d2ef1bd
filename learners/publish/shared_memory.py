"""Publishing to the engines of this host: one write into double-buffered shared memory.

The file format and the receiver are in `learners.models.weights`. Fencing: an attaching publisher
prepares its own file, then, under a lock held for microseconds, replaces the control page and voids
the old one. Its predecessor finds its control page void and stops; nothing that it writes before it
notices is in a file that a receiver follows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from configs.errors import ConfigError, DeadlineExceeded, StaleEpoch
from learners.models import weights
from learners.models.weights import (
    CHECKSUM,
    COUNTER,
    EPOCH,
    FINGERPRINT,
    LOCK,
    MAGIC,
    OURS,
    PAGE,
    PID,
    SHARED_FOLDER,
    VERSION,
    WRITTEN_NS,
    Layout,
    Receiver,
    Segment,
    SharedMemoryReceiver,
)
from learners.publish import Buckets, PublishStats, require_newer

__all__ = ["SharedMemoryPublisher", "remove_segments"]

LOCK_DEADLINE_S = 10.0


def remove_segments(prefix: str) -> list[str]:
    """Void and remove what crashed publishers left under names that start with `prefix`; return the names.

    Raises:
      ValueError: the prefix is empty, which would remove other programs' memory.
    """
    if not prefix:
        raise ValueError("the prefix is empty; pass the name that was published under")
    with exclusive():
        paths = sorted(p for p in SHARED_FOLDER.iterdir() if p.name.startswith(prefix))
        for path in paths:
            void(path)
    return [path.name for path in paths]


class SharedMemoryPublisher:
    """Writes weights straight into the half that no receiver is sent to, then points them at it."""

    def __init__(self, name: str, layout: Layout, epoch: int, *, deadline_s: float = 60.0) -> None:
        """Take over publishing under `name`.

        Raises:
          StaleEpoch: a publisher of a newer epoch has the name.
          ConfigError: shared memory is absent or too small.
        """
        self._name, self._layout, self._epoch, self._deadline_s = name, layout, epoch, deadline_s
        self._path = SHARED_FOLDER / name
        self._last = -1
        draft = create(Path(f"{self._path}.{os.getpid()}.data"), layout, 2, epoch)
        self._data = Segment(draft, layout, 2, write=True)
        self._views = [layout.views(half) for half in self._data.halves]
        with exclusive():
            self._generation = self._take_over(draft)
            self._control = Segment(self._path, layout, 0, write=True)

    def publish(self, version: int, buckets: Buckets) -> PublishStats:
        """Write and announce one version; see `Publisher.publish`."""
        require_newer(version, self._last)
        count = int(self._data.words[COUNTER]) + 1
        half, record = self._data.halves[count & 1], self._data.records[count & 1]
        started = time.perf_counter()
        record[LOCK] |= 1
        weights.fill_all(self._views[count & 1], buckets)
        packed = time.perf_counter()
        record[CHECKSUM] = weights.checksum(half.data)
        summed = time.perf_counter()
        record[VERSION], record[WRITTEN_NS] = version, time.time_ns()
        record[LOCK] += 1
        self._require_ownership()
        self._data.words[COUNTER] = count
        self._last = version
        size = self._layout.size
        return PublishStats(version=version, bytes=size, transfer_s=packed - started, checksum_s=summed - packed)

    def waiting(self) -> list[str]:
        """Return nobody: receivers read the newest version when they can."""
        return []

    def receiver(self, rank: int) -> Callable[[], Receiver]:
        return partial(SharedMemoryReceiver, self._name, self._layout, deadline_s=self._deadline_s)

    def close(self) -> None:
        with exclusive():
            if self._control.words[COUNTER] == self._generation:
                void(self._path)
            Path(f"{self._path}.{self._generation}").unlink(missing_ok=True)

    def _take_over(self, draft: Path) -> int:
        """Make the drafted file the newest generation and void the one before; return its number."""
        # Clock time, so that numbers rise even where a closed control page took its count along.
        generation = time.time_ns()
        before: Segment | None = None
        if self._path.exists():
            before = Segment(self._path, self._layout, 0, write=True)
            if int(before.words[EPOCH]) > self._epoch:
                draft.unlink()
                raise StaleEpoch(f"{self._path}: epoch {self._epoch} is older than {before.owner}; stop this process")
            generation = max(generation, int(before.words[COUNTER]) + 1)
        draft.rename(f"{self._path}.{generation}")
        control = create(Path(f"{self._path}.{os.getpid()}.control"), self._layout, 0, self._epoch, generation)
        control.rename(self._path)
        if before is not None:
            Path(f"{self._path}.{before.words[COUNTER]}").unlink(missing_ok=True)
            before.words[COUNTER] = 0
        return generation

    def _require_ownership(self) -> None:
        if self._control.words[COUNTER] != self._generation:
            raise StaleEpoch(f"{self._path}: the publisher of epoch {self._epoch} was replaced; stop this process")


def create(path: Path, layout: Layout, halves: int, epoch: int, counter: int = 0) -> Path:
    """Create a segment file whose pages exist, with its header filled in."""
    size = PAGE + halves * -(-layout.size // PAGE) * PAGE
    try:
        with open(path, "wb", opener=partial(os.open, mode=0o600)) as file:
            # Without this a full /dev/shm kills the process at the first copy (SIGBUS).
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        remedy = "enlarge it (docker: --shm-size) or set publish.backend=object_store"
        raise ConfigError(f"{SHARED_FOLDER} cannot hold {size} bytes for weights: {error}; {remedy}") from error
    words = Segment(path, layout, halves, write=True).words
    words[MAGIC], words[FINGERPRINT], words[EPOCH], words[PID] = OURS, layout.fingerprint, epoch, os.getpid()
    words[COUNTER] = counter
    return path


def void(path: Path) -> None:
    """Remove a segment file; whoever still maps it as a control page finds it closed."""
    with contextlib.suppress(FileNotFoundError):
        with open(path, "r+b", buffering=0) as file:
            file.seek(8 * COUNTER)
            file.write(bytes(8))
        path.unlink()


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the lock under which control pages change hands on this host.

    Raises:
      DeadlineExceeded: another process held it for 10 seconds.
    """
    descriptor = os.open(SHARED_FOLDER, os.O_RDONLY)
    deadline = time.monotonic() + LOCK_DEADLINE_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    what = "another publisher holds its lock; end the stopped process that does"
                    raise DeadlineExceeded(f"{SHARED_FOLDER}: {what} (waited {LOCK_DEADLINE_S:g} s)") from error
                time.sleep(0.001)
        yield
    finally:
        os.close(descriptor)

"""Weights as one flat buffer, and how an engine's process receives them.

A `Layout` names the tensors inside a contiguous buffer; every back end moves that buffer whole. A
`Receiver` hands out the newest intact version; the other kinds, and publishers, are in `learners.publish`.

    <name>               control page: who may publish (generation, epoch, pid)
    <name>.<generation>  header page, half 0, half 1: written by that one publisher only

A successor never writes where a predecessor might: it takes the next generation and its own file.
So a stopped publisher that wakes up scribbles in a file that no receiver reads any more.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from configs.errors import ConfigError, DataError, DeadlineExceeded

__all__ = ["Layout", "Receiver", "Segment", "SharedMemoryReceiver", "checksum", "fill", "fill_all"]

ALIGNMENT = 64  # bytes: a cache line, and enough for every dtype and vector instruction
PAGE = 4096  # bytes
LAYOUT_FORMAT = 1
SHARED_FOLDER = Path("/dev/shm")
RETRY_S = 0.0005

Bytes = NDArray[np.uint8]


def checksum(data: memoryview | bytes) -> int:
    """Return xxh3-64 of the data: fast enough (9 GB/s) to ride on the path."""
    return int(xxhash.xxh3_64_intdigest(data))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies: `offset` bytes from the start of the buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """Named tensors in one contiguous buffer of `size` bytes."""

    specs: tuple[TensorSpec, ...]
    size: int

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Layout:
        """Lay out tensors in the order given, each at a multiple of 64 bytes; any dtype."""
        specs, offset = [], 0
        for name, tensor in tensors.items():
            specs.append(TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), offset))
            offset += -(-specs[-1].bytes // ALIGNMENT) * ALIGNMENT
        return cls(tuple(specs), offset)

    def described(self) -> dict[str, torch.Tensor]:
        """Return a tensor without memory in place of each one."""
        return {s.name: torch.empty(s.shape, dtype=s.torch_dtype, device="meta") for s in self.specs}

    def buckets(self, limit: int) -> list[list[str]]:
        """Return the names in order, cut into runs of at most `limit` bytes, or of one tensor that is larger."""
        runs: list[list[str]] = []
        filled = limit
        for spec in self.specs:
            if filled + spec.bytes > limit:
                runs.append([])
                filled = 0
            runs[-1].append(spec.name)
            filled += spec.bytes
        return runs

    def require_run(self, part: Layout, at: int, offset: int, *, ended: bool = False) -> int:
        """Refuse a part that is not the next run of tensors; return the number of the tensor after it.

        Args:
          at: number of the part's first tensor here.
          offset: bytes before it.
          ended: no part follows.

        Raises:
          ValueError: a tensor is missing, surplus, or of another shape or dtype.
        """
        wanted = self.specs[at : at + len(part.specs)]
        moved = tuple(dataclasses.replace(spec, offset=offset + spec.offset) for spec in part.specs)
        if odd := {spec.name for spec in set(moved) ^ set(wanted)}:
            raise ValueError(f"tensors {sorted(odd)} are not what the layout says; publish what Layout.of was given")
        if ended and at < len(self.specs):
            raise ValueError(
                f"tensors {[s.name for s in self.specs[at:]]} are missing; publish what Layout.of was given"
            )
        return at + len(part.specs)

    def views(self, buffer: Bytes) -> dict[str, torch.Tensor]:
        """Return every tensor as a view of `buffer` [size] uint8, which must be writable."""
        flat = torch.from_numpy(buffer)
        return {s.name: flat[s.offset : s.offset + s.bytes].view(s.torch_dtype).view(s.shape) for s in self.specs}

    def pack(self, tensors: Mapping[str, torch.Tensor], out: Bytes) -> None:
        """Copy tensors into `out` [size] uint8; see `fill`."""
        fill(self.views(out), tensors)

    def allocate(self) -> Bytes:
        """Return a buffer [size] of zeros; padding between tensors stays zero, so equal weights hash equally."""
        return np.zeros(self.size, np.uint8)

    def to_json(self) -> str:
        specs = [dataclasses.astuple(s) for s in self.specs]
        return json.dumps({"format": LAYOUT_FORMAT, "size": self.size, "specs": specs})

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Inverse of `to_json`.

        Raises:
          DataError: the text is of another format version.
        """
        data = json.loads(text)
        if data["format"] != LAYOUT_FORMAT:
            raise DataError(f"weights layout has format {data['format']!r}; this release reads {LAYOUT_FORMAT}")
        return cls(tuple(TensorSpec(n, tuple(s), d, o) for n, s, d, o in data["specs"]), data["size"])

    @cached_property
    def fingerprint(self) -> int:
        """64-bit hash of names, shapes, dtypes and offsets; equal exactly for interchangeable buffers."""
        return checksum(self.to_json().encode())


@torch.no_grad()
def fill(views: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors (any device) into the views of a buffer; hot paths keep the views, which cost 5 us each.

    Raises:
      ValueError: a tensor is missing, surplus, or of another shape or dtype.
    """
    if odd := tensors.keys() ^ views.keys():
        raise ValueError(f"tensors {sorted(odd)} are missing or not in the layout; publish what Layout.of was given")
    sources = [tensors[name] for name in views]
    for (name, view), tensor in zip(views.items(), sources, strict=True):
        if tensor.shape != view.shape or tensor.dtype != view.dtype:
            got = f"{list(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"tensor {name!r} is {got}, the layout says {list(view.shape)} {view.dtype}")
    torch._foreach_copy_(list(views.values()), sources)


def fill_all(views: Mapping[str, torch.Tensor], buckets: Iterable[Mapping[str, torch.Tensor]]) -> None:
    """Copy tensors that come in buckets into the views of a buffer.

    Raises:
      ValueError: as `fill`.
    """
    lacking = set(views)
    for tensors in buckets:
        fill({name: views[name] for name in tensors if name in views}, tensors)
        lacking -= tensors.keys()
    if lacking:
        raise ValueError(f"tensors {sorted(lacking)} are missing; publish what Layout.of was given")


class Receiver(Protocol):
    """What an engine's owner holds; called between steps."""

    def poll(self) -> int | None:
        """Return the newest version unless it was taken already; cheap, never waits."""
        ...

    def take(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Return the newest version and its verified tensors, which stay valid until the next `take`.

        Raises:
          DeadlineExceeded: no intact version arrived in time; what was held before must be used on.
        """
        ...

    def close(self) -> None:
        """Release memory, files and connections."""
        ...


# Words of 64 bits in a page. COUNTER of a control page is the generation (0: closed), of a header page
# the number of versions published. LOCK is a half's sequence lock: odd while the half is being written.
MAGIC, FINGERPRINT, EPOCH, PID, COUNTER = range(5)
LOCK, VERSION, CHECKSUM, WRITTEN_NS = range(4)
OURS = 0x6865616472616365


class Segment:
    """A mapped file of shared memory: one page of words, then `halves` payloads of `size` bytes.

    Raises:
      FileNotFoundError: there is no such file (a reader may try again).
      ConfigError: the file belongs to another layout.
    """

    def __init__(self, path: Path, layout: Layout, halves: int, *, write: bool = False) -> None:
        stride = -(-layout.size // PAGE) * PAGE
        with open(path, "r+b" if write else "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != PAGE + halves * stride:
                raise ConfigError(f"{path} holds other weights; load one model everywhere, or remove the file")
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE  # page faults would halve the speed of the first copies
            access = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
            everything = np.frombuffer(mmap.mmap(file.fileno(), PAGE + halves * stride, flags, access), np.uint8)
        self.words = everything[:PAGE].view(np.uint64)
        self.records = [self.words[8 * (1 + h) : 8 * (2 + h)] for h in range(halves)]
        self.halves = [everything[PAGE + h * stride :][: layout.size] for h in range(halves)]
        if not write and self.words[: FINGERPRINT + 1].tolist() != [OURS, layout.fingerprint]:
            raise ConfigError(f"{path} holds other weights; load one model everywhere, or remove the file")

    def newest(self) -> int:
        """Return the version published last, or -1."""
        count = int(self.words[COUNTER])
        return int(self.records[count & 1][VERSION]) if count else -1

    def read(self, out: Bytes) -> tuple[int, str]:
        """Copy the newest version into `out`; return it and "", or why the copy is not intact."""
        half = int(self.words[COUNTER]) & 1
        record = self.records[half].copy()
        out[:] = self.halves[half]
        if record[LOCK] & 1 or record[LOCK] != self.records[half][LOCK]:
            return int(record[VERSION]), "it was overwritten while being read"
        # Also covers processors that reorder stores, and whatever else may have touched the bytes.
        intact = checksum(out.data) == int(record[CHECKSUM])
        return int(record[VERSION]), "" if intact else "its bytes fail their checksum"

    @property
    def owner(self) -> str:
        return f"publisher pid {self.words[PID]} of epoch {self.words[EPOCH]}"


class SharedMemoryReceiver:
    """Takes weights from a `SharedMemoryPublisher` of the same host; may be built before it exists."""

    def __init__(self, name: str, layout: Layout, *, deadline_s: float = 60.0) -> None:
        self._path, self._layout, self._deadline_s = SHARED_FOLDER / name, layout, deadline_s
        self._buffer = layout.allocate()
        self._views = layout.views(self._buffer)
        self._control: Segment | None = None
        self._data: Segment | None = None
        self._taken = (0, -1)  # (generation, version)
        self._generation = 0

    def poll(self) -> int | None:
        self._follow()
        version = self._data.newest() if self._data else -1
        return version if version >= 0 and (self._generation, version) > self._taken else None

    def take(self) -> tuple[int, dict[str, torch.Tensor]]:
        deadline = time.monotonic() + self._deadline_s
        fault = "no publisher has written one yet"
        while True:
            self._follow()
            if self._data and self._data.newest() >= 0:
                version, why = self._data.read(self._buffer)
                if not why:
                    self._taken = (self._generation, version)
                    return version, self._views
                fault = f"version {version} of {self._data.owner}: {why}; restart that publisher"
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self._path}: no intact weights within {self._deadline_s:g} s; {fault}")
            time.sleep(RETRY_S)

    def close(self) -> None:
        self._control = self._data = None

    def _follow(self) -> None:
        """Map the newest generation's file; keep the one at hand while there is no newer."""
        try:
            if self._control is None or not self._control.words[COUNTER]:
                self._control = Segment(self._path, self._layout, 0)
            generation = int(self._control.words[COUNTER])
            if generation > self._generation:
                self._data = Segment(Path(f"{self._path}.{generation}"), self._layout, 2)
                self._generation = generation
        except FileNotFoundError:
            pass  # not created yet, or replaced this very moment: the next call sees its successor

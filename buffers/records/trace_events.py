"""Writing a trace that Perfetto and chrome://tracing open: the JSON trace-event format.

A trace has processes (pid), which have threads (tid): the tracks. A slice is a complete event ("X") on a track;
slices of a track nest and never overlap otherwise, so what runs side by side is put on lanes. A flow is a chain of
arrows between slices ("s", "t" ..., "f"). Times go in as Unix seconds and come out as microseconds since the first.

Source: "Trace Event Format" of the Chromium project; Perfetto, "Importing external traces".
"""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from buffers.files import write_atomically

__all__ = ["Slice", "TraceEvents", "Track", "lanes"]


class Track(NamedTuple):
    """A thread of a process."""

    pid: int
    tid: int


class Slice(NamedTuple):
    """Something that took time; `begin` and `end` are Unix seconds."""

    name: str
    begin: float
    end: float
    args: Mapping[str, Any]


class TraceEvents:
    """The events of one trace."""

    def __init__(self, origin: float) -> None:
        """Begin a trace whose time 0 is `origin`, in Unix seconds."""
        self._origin = origin
        self._names: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._tracks: dict[str, dict[str, Track]] = {}
        self._flows = 0

    def track(self, process: str, thread: str) -> Track:
        """Return a track by its names, in the order of the first mention."""
        if process not in self._tracks:
            self._tracks[process] = {}
            pid = len(self._tracks)
            self._name(pid, 0, "process_name", {"name": process})
            self._name(pid, 0, "process_sort_index", {"sort_index": pid})
        threads = self._tracks[process]
        if thread not in threads:
            pid = list(self._tracks).index(process) + 1
            track = threads[thread] = Track(pid, len(threads) + 1)
            self._name(*track, "thread_name", {"name": thread})
            self._name(*track, "thread_sort_index", {"sort_index": track.tid})
        return threads[thread]

    def add(self, track: Track, item: Slice) -> None:
        """Put a slice on a track."""
        ts, end = self._us(item.begin), self._us(item.end)
        self._events.append({"ph": "X", "name": item.name, "cat": "headrace", "ts": ts, "dur": round(end - ts, 3),
                             "pid": track.pid, "tid": track.tid, "args": dict(item.args)})  # fmt: skip

    def connect(self, name: str, stops: Sequence[tuple[Track, float]]) -> None:
        """Draw arrows from slice to slice: each stop is a track and a moment within one of its slices."""
        if len(stops) < 2:
            return
        self._flows += 1
        for at, (track, moment) in enumerate(stops):
            phase = "s" if at == 0 else "f" if at == len(stops) - 1 else "t"
            self._events.append({"ph": phase, "id": self._flows, "name": name, "cat": "trajectory",
                                 "ts": self._us(moment), "pid": track.pid, "tid": track.tid,
                                 **({"bp": "e"} if phase == "f" else {})})  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """Return all events: the names of the tracks, then the rest by time, outer slices before inner ones."""
        return self._names + sorted(self._events, key=lambda e: (e["ts"], -e.get("dur", 0.0)))

    def write(self, path: Path) -> None:
        """Write the trace; compressed where the name ends in .gz."""
        data = json.dumps({"displayTimeUnit": "ms", "traceEvents": self.events()}).encode()
        write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)

    def _name(self, pid: int, tid: int, name: str, args: Mapping[str, Any]) -> None:
        self._names.append({"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": dict(args)})

    def _us(self, seconds: float) -> float:
        return round((seconds - self._origin) * 1e6, 3)


def lanes(items: Iterable[tuple[float, float]]) -> list[int]:
    """Return a lane for each (begin, end), so that no two on a lane overlap; as few lanes as possible."""
    spans = list(items)
    chosen = [0] * len(spans)
    busy: list[tuple[float, int]] = []  # (end, lane)
    free: list[int] = []
    for at in sorted(range(len(spans)), key=lambda i: spans[i]):
        begin, end = spans[at]
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        chosen[at] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, chosen[at]))
    return chosen

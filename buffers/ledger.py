"""The ledger: every step of every slot, score attempts, preference pairs and weight versions.

    admitted -> generated -> scored -> batched -> trained | dropped(reason) | failed(reason)
                                                    \\-> rolled_back, when a resume goes behind it

A thin, typed writer over segment files. Rows are append-only and ordered by `seq`; one ledger exists
per run epoch, and its process alone writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from buffers.commits import CommitThread, MakeCommits
from buffers.events import Event, EventCall, EventKind, ScoreCall, event_table, score_table
from buffers.files import Files, OsFiles, disk, write_atomically
from buffers.retired import Retired, write_retired
from buffers.scores import Score
from buffers.segments import Assemble, SegmentWriter, concatenate
from buffers.tables import PAIRS, SCHEMAS, VERSIONS

__all__ = ["Event", "EventKind", "Ledger", "Pair", "read_cursor"]

SEQ_BITS = 40  # events of one run epoch; the epoch sits above, so `seq` rises over the whole run


class Pair(NamedTuple):
    """A preference between two trajectories; a higher revision replaces a lower one."""

    left_id: str
    right_id: str
    label: float
    """Probability that the left one is better."""
    weight: float = 1.0
    verdict: str = ""
    revision: int = 0


class Ledger:
    """The one writer of a run's ledger in an epoch.

    Every `record` method returns a future that is done once the rows are on disk, and raises what an
    earlier row met: a caller that ignores futures still cannot lose rows silently.

    Raises:
      StaleEpoch: a newer epoch of the folder began.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_epoch: int,
        lineage: int,
        segment_bytes: int = 16 << 20,
        commit_interval_s: float = 0.02,
        fsync: bool = True,
        clock: Callable[[], float] = time.time,
        files: Files | None = None,
        commits: MakeCommits = CommitThread,
    ) -> None:
        self._folder, self._epoch, self._lineage, self._clock = folder, run_epoch, lineage, clock
        self._files = files or OsFiles()
        self._seq = run_epoch << SEQ_BITS
        rows: dict[str, Assemble] = {
            "events": partial(event_table, run_epoch=run_epoch, lineage=lineage),
            "scores": score_table,
        }
        self._writers = {
            stream: SegmentWriter(
                folder,
                stream,
                SCHEMAS[stream],
                run_epoch=run_epoch,
                segment_bytes=segment_bytes,
                commit_interval_s=commit_interval_s,
                fsync=fsync,
                files=self._files,
                commits=commits,
                assemble=rows.get(stream, concatenate),
            )
            for stream in ("events", "scores", "pairs", "versions")
        }

    def now(self) -> float:
        """Return the time that a row would bear, in seconds since the Unix epoch."""
        return self._clock()

    def record(self, events: Sequence[Event]) -> Future[None]:
        """Append events, in order. Calls come from one thread."""
        call = EventCall(self._seq, self._clock(), events)
        self._seq += len(events)
        return self._put("events", call)

    def record_scores(self, scores: Sequence[tuple[str, Score]], update_version: int | None = None) -> Future[None]:
        """Append (trajectory id, score) pairs, invalid scores too.

        Args:
          update_version: the consuming version, of a batch that was scored when it was read.
        """
        return self._put("scores", ScoreCall(self._clock(), scores, update_version))

    def record_pairs(self, pairs: Sequence[Pair]) -> Future[None]:
        """Append preference pairs."""
        now = self._clock()
        return self._append("pairs", pa.Table.from_pylist([p._asdict() | {"time": now} for p in pairs], schema=PAIRS))

    def record_version(
        self,
        *,
        version: int,
        parent: int | None,
        weights_sha256: str,
        trained_digest: str,
        num_trained: int,
        model: str = "policy",
    ) -> Future[None]:
        """Append a weights version.

        Args:
          parent: the version whose weights the update started from; None for the first one.
          trained_digest: chained over the ids of every update up to this version.
          num_trained: trajectories of the update that made this version.
        """
        row = {
            "lineage": self._lineage,
            "version": version,
            "parent": parent,
            "model": model,
            "weights_sha256": weights_sha256,
            "trained_digest": trained_digest,
            "num_trained": num_trained,
            "time": self._clock(),
            "run_epoch": self._epoch,
        }
        return self._append("versions", pa.Table.from_pylist([row], schema=VERSIONS))

    def write_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Replace cursor.json atomically: source, fingerprint, first, groups_issued, num_generations, tasks_per_epoch.

        Raises:
          DataError: the disk refused.
        """
        path = self._folder / "cursor.json"
        with disk(path):
            write_atomically(path, json.dumps(dict(cursor), indent=1).encode(), self._files)

    def retire(self, record: Retired, files: Mapping[str, Sequence[Path]]) -> None:
        """Write down what is retired, then delete the merged files of each stream that hold nothing else.

        Raises:
          StaleEpoch: a newer epoch of the folder began.
        """
        for writer in self._writers.values():
            writer.refuse_if_stale()
        write_retired(self._folder.parent, record)
        for stream, paths in files.items():
            self._writers[stream].remove(paths)

    def flush(self, deadline_s: float = 60.0) -> None:
        """Return once everything recorded so far is on disk; errors as in `SegmentWriter.flush`."""
        for writer in self._writers.values():
            writer.flush(deadline_s)

    def close(self, deadline_s: float = 60.0) -> None:
        """Write what is queued and merge the segments; errors as in `SegmentWriter.close`."""
        for writer in self._writers.values():
            writer.close(deadline_s)

    def _append(self, stream: str, table: pa.Table) -> Future[None]:
        return self._sound(stream).append(table)

    def _put(self, stream: str, call: EventCall | ScoreCall) -> Future[None]:
        return self._sound(stream).put(call)

    def _sound(self, stream: str) -> SegmentWriter:
        """Return the writer of a stream, unless one of them has failed."""
        for writer in self._writers.values():
            writer.raise_failure()
        return self._writers[stream]


def read_cursor(folder: Path) -> dict[str, Any]:
    """Return cursor.json of a ledger folder; empty before the first `write_cursor`."""
    path = folder / "cursor.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else {}

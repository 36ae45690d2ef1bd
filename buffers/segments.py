"""Writing a stream: append-only segments, group commit, compaction to Parquet.

    append() -> queue -> [commit: one table, write, fsync, check fence] -> future done
                              \\ segment full: start the next one, merge the closed ones to Parquet

All disk work is done where `buffers.commits` says: on one thread per writer. Rows that arrive during a
commit form the next group, of about GROUP_BYTES at most: one frame and one fsync per group.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from buffers.commits import CommitThread, MakeCommits
from buffers.epochs import COVERS, begin_epoch, newest_claim, require_newest, stream_files
from buffers.files import Files, OsFiles, write_atomically
from buffers.frames import encode
from buffers.streams import read_files, read_stream
from buffers.tables import upgrade
from configs.errors import DataError, DeadlineExceeded, RunError, StaleEpoch

__all__ = ["GROUP_BYTES", "Assemble", "SegmentWriter", "begin_epoch", "concatenate", "read_stream"]

GROUP_BYTES = 8 << 20
"""Payloads behind so many bytes wait for the next group: the first ones are of use while the rest is written."""

Group = list[tuple[Any, "Future[None]"]]
Assemble = Callable[[list[Any]], pa.Table]
"""What was queued for one commit, in order -> its rows."""


def concatenate(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


class SegmentWriter:
    """The one writer of a stream in an epoch; a restarted one begins a new epoch first.

    Raises:
      StaleEpoch: a newer epoch of the folder began.
    """

    def __init__(
        self,
        folder: Path,
        stream: str,
        schema: pa.Schema,
        *,
        run_epoch: int,
        segment_bytes: int = 16 << 20,
        commit_interval_s: float = 0.02,
        fsync: bool = True,
        files: Files | None = None,
        commits: MakeCommits = CommitThread,
        assemble: Assemble = concatenate,
    ) -> None:
        self._assemble = assemble
        self._folder, self._stream, self._schema, self._epoch = folder, stream, schema, run_epoch
        self._segment_bytes, self._fsync = segment_bytes, fsync
        self._files = files or OsFiles()
        # Of the queue and of what refuses more rows; re-entrant, since a commit may run within the request for it.
        self._lock = threading.RLock()
        self._merging = threading.Lock()  # held while merged files are listed, made or removed
        self._queue: Group = []
        self._group: Group = []  # being written
        self._closing = False
        self._error: RunError | None = None
        self._commits = commits(self._commit_queue, self._end, commit_interval_s, f"segments-{stream}")
        self._ordinal = -1
        self._path: Path | None = None  # the live segment
        self._handle = self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.refuse_if_stale()

    def append(self, table: pa.Table) -> Future[None]:
        """Queue rows; the future is done once they are on disk, and fails with a RunError otherwise.

        Raises:
          DataError: the columns are not the schema's.
        """
        return self._enqueue(upgrade(table, self._schema))

    def put(self, rows: Any) -> Future[None]:
        """Queue what `assemble` makes a table of when it is committed; else as `append`."""
        return self._enqueue(rows)

    def remove(self, paths: Sequence[Path]) -> None:
        """Delete merged files that nobody needs any more; safe to repeat after a crash.

        Raises:
          StaleEpoch: a newer epoch of the folder began; nothing was deleted.
        """
        self.refuse_if_stale()
        with self._merging:
            for path in paths:
                self._files.remove(path)
            self._files.sync_folder(self._folder)

    def raise_failure(self) -> None:
        """Raise the error after which nothing more is stored, if there is one."""
        if self._error is not None:
            raise self._error

    def flush(self, deadline_s: float = 60.0) -> None:
        """Return once everything appended so far is on disk.

        Raises:
          DeadlineExceeded: it is not, after `deadline_s`.
          RunError: the disk refused.
        """
        self._await(self._enqueue(None, urgent=True), deadline_s)

    def close(self, deadline_s: float = 60.0) -> None:
        """Write what is queued, merge the segments and take no more.

        Raises:
          DeadlineExceeded: that still goes on after `deadline_s`.
          RunError: the disk refused.
        """
        with self._lock:
            self._closing = True
        if not self._commits.finish(deadline_s):
            raise DeadlineExceeded(f"{self._folder}: stream {self._stream!r} is not closed after {deadline_s:g} s")
        self.raise_failure()

    def _enqueue(self, rows: Any, urgent: bool = False) -> Future[None]:
        future: Future[None] = Future()
        with self._lock:
            if self._closing or self._error is not None:
                closed = DataError(f"{self._folder}: stream {self._stream!r} is closed; open a new writer")
                future.set_exception(self._error or closed)
                return future
            self._queue.append((rows, future))
            self._commits.request(urgent=urgent)
        return future

    def _await(self, future: Future[None], deadline_s: float) -> None:
        try:
            future.result(deadline_s)
        except TimeoutError as error:
            where = f"{self._folder}: stream {self._stream!r}"
            raise DeadlineExceeded(f"{where}: rows are not on disk after {deadline_s:g} s") from error

    def _commit_queue(self) -> None:
        try:
            while group := self._next_group():
                self._commit(group)
        except Exception as error:  # the top of the writing thread: whatever it was, nobody may wait for ever
            self._fail(error)

    def _next_group(self) -> Group:
        """Take what is queued, up to the rows that make a large group whole."""
        with self._lock:
            size = count = 0
            while count < len(self._queue) and size < GROUP_BYTES:
                rows, _ = self._queue[count]
                size += rows.get_total_buffer_size() if isinstance(rows, pa.Table) else 0
                count += 1
            self._group, self._queue = self._queue[:count], self._queue[count:]
            return self._group

    def _end(self) -> None:
        try:
            if self._error is None:
                self._close_segment()
                with self._merging:
                    self._compact()
        except Exception as error:  # as above
            self._fail(error)

    def _commit(self, group: Group) -> None:
        if queued := [rows for rows, _ in group if rows is not None]:
            self._write(encode(self._assemble(queued)))
        for _, future in group:
            if future.set_running_or_notify_cancel():  # an awaiting coroutine may be gone; its rows stay
                future.set_result(None)
        self._group = []
        if self._size >= self._segment_bytes:
            self._close_segment()
            with self._merging:
                self._compact()

    def _write(self, frame: memoryview) -> None:
        if self._path is None:
            self._open_segment()
        assert self._path is not None
        self._files.write(self._handle, frame)
        self._size += len(frame)
        if self._fsync:
            self._files.sync(self._handle)
        if not self._path.exists():
            raise StaleEpoch(f"{self._path}: epoch {self._epoch} was fenced off by a newer one; end this process")

    def _open_segment(self) -> None:
        if self._ordinal < 0:
            with self._merging:
                own = [f for f in stream_files(self._folder, self._stream) if f.epoch == self._epoch]
            if any(f.is_segment for f in own):
                raise DataError(f"{own[-1].path} was left by another writer of epoch {self._epoch}; begin a new epoch")
            self._ordinal = max((f.ordinal for f in own), default=-1)
        self._ordinal += 1
        path = self._folder / f"{self._stream}-e{self._epoch:04d}-{self._ordinal:06d}.seg"
        self._handle, self._path, self._size = self._files.create(path), path, 0
        self._files.sync_folder(self._folder)
        self.refuse_if_stale()

    def refuse_if_stale(self) -> None:
        """Raise StaleEpoch when a newer epoch of the folder began."""
        require_newest(self._folder, self._epoch)

    def _close_segment(self) -> None:
        if self._path is not None:
            self._files.close(self._handle)
            self._path = None

    def _compact(self) -> None:
        """Merge all closed segments, also those that crashed epochs left, into one Parquet file."""
        # A newer epoch renames what it takes over: what carries its mark is no longer ours to remove.
        names = {True: "{}.seg", False: f"{{}}.f{self._epoch:04d}.seg"}
        found = [f for f in stream_files(self._folder, self._stream) if f.is_segment]
        closed = [f for f in found if f.path.name == names[f.epoch == self._epoch].format(f.key)]
        if not closed or closed[-1].epoch != self._epoch:
            return
        table = pa.concat_tables([upgrade(t, self._schema) for t in read_files(closed)], promote_options="default")
        covers = json.dumps([f.key for f in closed]).encode()
        table = table.replace_schema_metadata({**table.schema.metadata, COVERS: covers})
        sink = pa.BufferOutputStream()
        # Dictionaries pay for texts; for tokens and log-probabilities they double the time.
        texts = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
        pq.write_table(table, sink, compression="zstd", use_dictionary=texts, write_page_checksum=True)
        write_atomically(self._folder / f"{closed[-1].key}.parquet", memoryview(sink.getvalue()), self._files)
        for file in closed:
            self._files.remove(file.path)
        self._files.sync_folder(self._folder)

    def _fail(self, error: Exception) -> None:
        """Fail everything queued and to come: no row is ever lost silently."""
        if isinstance(error, FileNotFoundError) and newest_claim(self._folder) > self._epoch:
            error = StaleEpoch(f"{error.filename} was taken over by a newer epoch than {self._epoch}; end this process")
        if not isinstance(error, RunError):
            where = self._path or self._folder / self._stream
            remedy = "free the disk, then resume the run"
            cause, error = error, DataError(f"{where}: {error}; rows from here on are not stored; {remedy}")
            error.__cause__ = cause
        with self._lock:
            self._error = error
            group, self._group, self._queue = self._group + self._queue, [], []
        for _, future in group:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

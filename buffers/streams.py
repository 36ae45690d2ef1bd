"""Reading a stream: its Parquet files and live segments, in the order of writing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from buffers.epochs import StreamFile, stream_files
from buffers.frames import decode
from buffers.tables import upgrade
from configs.errors import Corruption

__all__ = ["read_back", "read_files", "read_stream"]

LISTINGS = 100  # each retry means that a file was merged between our listing and our reading


def read_stream(folder: Path, stream: str, schema: pa.Schema, *, newest_epoch: int | None = None) -> pa.Table:
    """Return all rows of a stream, of a running run too, in the columns of `schema`.

    An unfinished frame at the end of an epoch's last segment is left out: it was never acknowledged.

    Args:
      stream: "events", "trajectories", ...
      newest_epoch: leave out later epochs; None reads all.

    Raises:
      Corruption: damaged bytes; names file and offset.
      DataError: a newer headrace wrote the stream.
    """
    for _ in range(LISTINGS):
        try:
            tables = read_files(stream_files(folder, stream, newest_epoch))
        except FileNotFoundError:
            continue
        upgraded = [upgrade(t, schema) for t in tables] or [schema.empty_table()]
        return pa.concat_tables(upgraded, promote_options="default")
    raise Corruption(f"{folder}: the files of stream {stream!r} kept vanishing; run one writer per folder")


def read_back(folder: Path, stream: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the tables of a stream that nobody writes now, the newest first, each in the order of writing.

    Args:
      columns: those to read; of older files some may be missing.

    Raises:
      Corruption: damaged bytes; names file and offset.
    """
    for file in reversed(stream_files(folder, stream)):
        tables = _segment(file) if file.is_segment else [_parquet(file.path, columns)]
        for table in reversed(tables):
            yield table.select([name for name in columns if name in table.column_names])


def read_files(files: list[StreamFile]) -> list[pa.Table]:
    """Return the tables of some files of a stream.

    Raises:
      Corruption: damaged bytes; names file and offset.
      FileNotFoundError: a file was merged meanwhile; list again.
    """
    return [table for file in files for table in (_segment(file) if file.is_segment else [_parquet(file.path)])]


def _segment(file: StreamFile) -> list[pa.Table]:
    with pa.OSFile(str(file.path)) as opened:
        data = opened.read_buffer(file.limit)  # unlike those of Python's bytes, its pages are used again
    return decode(data, file.path, may_be_torn=file.may_be_torn)


def _parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise Corruption(f"{path}: {error}; restore the file from a copy") from error

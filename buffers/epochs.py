"""Epochs: which bytes of a folder count when an orphaned writer goes on after its successor began.

A stream is a sequence of files `<stream>-e<epoch>-<ordinal>.seg`, later merged into `.parquet`. An epoch
begins in three steps:

    1. `epoch-0002.claim` is created: from now on a writer of epoch 1 that starts a segment stops.
    2. Live segments are renamed to `...f0002.seg`: a writer of epoch 1 that commits to one stops.
    3. `epoch-0002.json` records every file and its size: later files and bytes of epoch 1 do not count.

A writer acknowledges rows only after it saw its segment still in place, so that acknowledged rows are
always within the recorded sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from buffers.files import Files, OsFiles, write_atomically
from configs.errors import Corruption, StaleEpoch

__all__ = ["COVERS", "StreamFile", "begin_epoch", "newest_claim", "require_newest", "stream_files"]

COVERS = b"headrace.covers"  # Parquet metadata: the segments that the file replaces, by key
FILE = re.compile(r"(?P<key>(?P<stream>\w+)-e(?P<epoch>\d+)-(?P<ordinal>\d+))(\.f\d+)?\.(?P<kind>seg|parquet)")
CLAIM = re.compile(r"epoch-(\d+)\.(claim|json)")


class StreamFile(NamedTuple):
    """A file of a stream; `key` survives the renaming of step 2."""

    epoch: int
    ordinal: int
    key: str
    path: Path
    is_segment: bool
    limit: int | None = None
    """Bytes that count; None means all."""
    may_be_torn: bool = False
    """The last segment of its epoch, which a crash can have cut short."""


def begin_epoch(folder: Path, at_least: int = 1, files: Files | None = None) -> int:
    """Start a new epoch in a folder and return its number; older writers are fenced off.

    Raises:
      OSError: the disk refused; no epoch began.
    """
    files = files or OsFiles()
    folder.mkdir(parents=True, exist_ok=True)
    number = _claim(folder, at_least, files)
    for path in folder.glob("*.tmp"):
        files.remove(path)
    while True:
        _rename_segments(folder, number, files)
        found = sorted(f.path for f in _scan(folder))
        # A listing is no snapshot: a file can move while it is read. Two equal ones are.
        if found == sorted(f.path for f in _scan(folder)):
            break
    files.sync_folder(folder)
    segments = {f.key: f.path.stat().st_size for f in _scan(folder) if f.is_segment}
    parquet = {f.path.name: f.path.stat().st_size for f in _scan(folder) if not f.is_segment}
    marker = json.dumps({"segments": segments, "parquet": parquet}, indent=1)
    write_atomically(folder / f"epoch-{number:04d}.json", marker.encode(), files)
    return number


def newest_claim(folder: Path) -> int:
    """Return the number of the newest epoch that began, or is about to; 0 without any."""
    return max((int(m[1]) for p in folder.iterdir() if (m := CLAIM.fullmatch(p.name))), default=0)


def require_newest(folder: Path, epoch: int) -> None:
    """Raise StaleEpoch if a newer epoch of the folder than `epoch` began."""
    if (newest := newest_claim(folder)) > epoch:
        raise StaleEpoch(f"{folder}: epoch {epoch} was fenced off by epoch {newest}; end this process")


def stream_files(folder: Path, stream: str, newest_epoch: int | None = None) -> list[StreamFile]:
    """Return the files of a stream that count, in the order of writing.

    Args:
      newest_epoch: leave out later epochs; None reads all.

    Raises:
      Corruption: what an epoch recorded at its begin is damaged.
    """
    markers = sorted((int(m[1]), p) for p in folder.glob("epoch-*.json") if (m := CLAIM.fullmatch(p.name)))
    fences = [(number, _marker(path)) for number, path in markers]
    found = [f for f in _scan(folder) if f.key.startswith(f"{stream}-e")]
    found = [f for f in found if newest_epoch is None or f.epoch <= newest_epoch]
    counted = sorted(f for file in found if (f := _fenced(file, fences)) is not None)
    last = {f.epoch: f.key for f in counted}
    covered = _covered(counted)
    return [
        f._replace(may_be_torn=f.is_segment and f.key == last[f.epoch])
        for f in counted
        if not (f.is_segment and f.key in covered)
    ]


def _marker(path: Path) -> dict[str, dict[str, int]]:
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError as error:
        raise Corruption(f"{path} is not JSON: {error}; restore it from a copy") from error


def _claim(folder: Path, at_least: int, files: Files) -> int:
    number = max(at_least - 1, newest_claim(folder), *(f.epoch for f in _scan(folder)), 0)
    while True:
        number += 1
        try:
            files.close(files.create(folder / f"epoch-{number:04d}.claim"))
        except FileExistsError:
            continue  # another process claimed it between our look and our step
        return number


def _scan(folder: Path) -> Iterator[StreamFile]:
    for path in folder.glob("*-e*"):
        if match := FILE.fullmatch(path.name):
            yield StreamFile(int(match["epoch"]), int(match["ordinal"]), match["key"], path, match["kind"] == "seg")


def _rename_segments(folder: Path, number: int, files: Files) -> None:
    for file in list(_scan(folder)):
        target = folder / f"{file.key}.f{number:04d}.seg"
        if not file.is_segment or file.path == target:
            continue
        try:
            files.rename(file.path, target)
        except FileNotFoundError:
            continue  # its writer merged it a moment ago; the Parquet file is in the next listing


def _fenced(file: StreamFile, fences: list[tuple[int, dict[str, dict[str, int]]]]) -> StreamFile | None:
    """Apply the first fence behind a file's epoch; None when the file came too late."""
    fence = next((record for number, record in fences if number > file.epoch), None)
    if fence is None:
        return file
    if not file.is_segment:
        return file if file.path.name in fence["parquet"] else None
    size = fence["segments"].get(file.key)
    return None if size is None else file._replace(limit=size)


def _covered(files: list[StreamFile]) -> set[str]:
    """Return the keys of segments whose Parquet file exists, though a crash kept them from being removed."""
    if not any(f.is_segment for f in files):
        return set()
    metadata = [pq.read_schema(f.path).metadata or {} for f in files if not f.is_segment]
    return {key for m in metadata for key in json.loads(m.get(COVERS, b"[]"))}

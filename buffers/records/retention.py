"""Retention: what a run lets go of at a checkpoint, so that its folder stays small.

    horizon = min(newest version - updates to keep, oldest kept checkpoint) - versions that a sampler looks back
    retired = the groups, in the order of the task stream, before the first one that is open or younger than that

A group is older than the horizon when its last event precedes the commit that made the horizon's version: a resume
from any kept checkpoint neither rolls it back nor generates it again. The record goes first, then the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from buffers.epochs import stream_files
from buffers.ledger import Ledger, read_cursor
from buffers.records.books import checkpoint_states, open_books, totals
from buffers.retired import Retired, read_retired
from buffers.segments import SegmentWriter
from configs.stream import RetentionConfig

__all__ = ["retire"]

KEPT = """
WITH groups AS (
  SELECT ordinal, bool_and(outcome IN ('trained', 'dropped', 'failed') AND reason NOT IN ('run_ended', 'restart'))
    FILTER (is_last) AS ended
  FROM tries GROUP BY ordinal
), last AS (SELECT ordinal, max(seq) AS seq FROM e GROUP BY ordinal)
SELECT coalesce(min(ordinal) FILTER (NOT ended OR seq > (SELECT coalesce(max(seq), -1) FROM e
                                                         WHERE event = 'trained' AND version < $horizon)),
                max(ordinal) + 1, 0)
FROM groups JOIN last USING (ordinal)
"""
"""The first group, by ordinal, that is open or not older than the horizon. Drained and restarted ones come again."""

SUMMARY = """
SELECT coalesce(max(version) + 1, 0) AS version, count(DISTINCT ordinal) AS groups
FROM e JOIN tries USING (try, ordinal)
WHERE event = 'trained' AND outcome = 'trained' AND version < $horizon AND ordinal < $below
"""
DIGEST = "SELECT arg_max(trained_digest, lineage) FROM versions WHERE model = 'policy' AND version = $version"
SLOT = r":(?P<epoch>\d+):(?P<task>\d+):\d+\.\d+\.\d+$"  # of a trajectory id, whose source may hold colons

Ordinals = Callable[[Path], Any]


def retire(
    run_folder: Path, rule: RetentionConfig, memory: int, ledger: Ledger, payload_log: SegmentWriter, version: int
) -> Retired:
    """Let go of what `rule` does not keep, and return what is retired now.

    Args:
      memory: versions that the sampler looks back at trained groups.
      version: of the newest weights; a checkpoint has been written, and the ledger is on disk up to it.

    Raises:
      StaleEpoch: a newer epoch of the run began; nothing was changed.
    """
    before = read_retired(run_folder)
    before = replace(before, tasks_per_epoch=read_cursor(run_folder / "ledger")["tasks_per_epoch"])
    oldest = min((state["version"] for _, _, state in checkpoint_states(run_folder)), default=0)

    def horizon(updates: int | None) -> int:
        return 0 if updates is None else min(version - updates, oldest) - memory

    books = open_books(run_folder, before)
    try:
        after = _record(books, before, horizon(rule.payload_updates), horizon(rule.ledger_updates))
    finally:
        books.close()

    def ordinals(path: Path) -> Any:
        table = pq.read_table(path, columns=["epoch", "task"])
        return _ordinals(table["epoch"], table["task"], after.tasks_per_epoch)

    def scored_ordinals(path: Path) -> Any:
        parts = pc.extract_regex(pq.read_table(path, columns=["trajectory_id"])["trajectory_id"], SLOT)
        return _ordinals(pc.struct_field(parts, "epoch"), pc.struct_field(parts, "task"), after.tasks_per_epoch)

    events = _files(run_folder / "ledger", "events", ordinals, after.ledger_below)
    scores = _files(run_folder / "ledger", "scores", scored_ordinals, after.ledger_below)
    last = [pc.max(pq.read_table(path, columns=["seq"])["seq"]).as_py() for path in events]
    after = replace(after, through_seq=max([after.through_seq, *(seq for seq in last if seq is not None)]))
    ledger.retire(after, {"events": events, "scores": scores})
    payload_log.remove(_files(run_folder / "trajectories", "trajectories", ordinals, after.payloads_below))
    return after


def _record(books: Any, before: Retired, payload_horizon: int, ledger_horizon: int) -> Retired:
    """Return what is retired from now on; never less than before."""
    payloads, ledger = (_first_kept(books, horizon) for horizon in (payload_horizon, ledger_horizon))
    after = replace(before, payloads_below=max(payloads, before.payloads_below))
    if ledger <= before.ledger_below:
        return after
    version, groups = books.execute(SUMMARY, {"horizon": ledger_horizon, "below": ledger}).fetchone()
    version = max(version, before.version)
    return replace(
        after,
        ledger_below=ledger,
        version=version,
        trained_digest=books.execute(DIGEST, {"version": version}).fetchone()[0] or "",
        trained_groups=before.trained_groups + groups,
        totals=totals(books, before, ledger),
    )


def _first_kept(books: Any, horizon: int) -> int:
    return int(books.execute(KEPT, {"horizon": horizon}).fetchone()[0])


def _files(folder: Path, stream: str, ordinals: Ordinals, below: int) -> list[Path]:
    """Return the oldest merged files of a stream that hold rows of retired groups alone."""
    found: list[Path] = []
    for file in stream_files(folder, stream) if below else []:
        newest = None if file.is_segment else pc.max(ordinals(file.path)).as_py()
        if file.is_segment or (newest is not None and newest >= below):
            break
        found.append(file.path)
    return found


def _ordinals(epoch: Any, task: Any, tasks_per_epoch: int) -> Any:
    return pc.add(pc.multiply(pc.cast(epoch, pa.int64()), tasks_per_epoch), pc.cast(task, pa.int64()))

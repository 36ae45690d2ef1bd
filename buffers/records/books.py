"""The books of a run as tables that SQL can check: one row per event, per attempt, per payload.

    numbered  (id, run_epoch, seq)                          events that must be on disk
    e         events with slot, try, ordinal and era        of groups that are not retired
    tries     one row per attempt: its states and outcome
    p         (id, try) of payloads

An attempt's outcome is its last word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from buffers.records.query import connect
from buffers.retired import Retired
from configs.errors import DataError

__all__ = ["checkpoint_states", "open_books", "totals"]

STATE = ("version", "trained_digest", "trained_count")  # of a checkpoint's state.json

PREPARE = """
CREATE TABLE numbered AS SELECT id, run_epoch, seq FROM events WHERE seq > {through_seq};
CREATE TABLE e AS SELECT seq, run_epoch, event::VARCHAR AS event, id, version, reason, attempt, node,
    epoch::BIGINT * {tasks_per_epoch} + task AS ordinal,
    concat_ws(':', source, epoch, task, sample) AS slot, slot || '.' || attempt AS try,
    count(*) FILTER (event::VARCHAR = 'rolled_back') OVER (PARTITION BY id ORDER BY seq ROWS UNBOUNDED PRECEDING) AS era
  FROM events WHERE epoch::BIGINT * {tasks_per_epoch} + task >= {ledger_below};
CREATE TABLE tries AS SELECT try, any_value(slot) AS slot, any_value(attempt) AS attempt,
    any_value(ordinal) AS ordinal,
    count(*) FILTER (event = 'admitted') AS admitted,
    bool_or(event = 'generated') AS generated, bool_or(event = 'scored') AS scored,
    coalesce(arg_max(event, seq) FILTER (event IN ('trained', 'dropped', 'failed', 'rolled_back')), 'in_flight')
      AS outcome,
    arg_max(reason, seq) AS reason,
    attempt = max(any_value(attempt)) OVER (PARTITION BY any_value(slot)) AS is_last
  FROM e GROUP BY try, attempt;
CREATE TABLE p AS SELECT id, concat_ws(':', source, epoch, task, sample) || '.' || attempt AS try
  FROM trajectories WHERE epoch::BIGINT * {tasks_per_epoch} + task >= {payloads_below};
"""

TOTALS = """
SELECT count(*) FILTER (admitted > 0) AS admitted, count(*) FILTER (generated) AS generated,
    count(*) FILTER (scored) AS scored, count(*) FILTER (outcome = 'trained') AS trained,
    count(*) FILTER (outcome = 'dropped') AS dropped, count(*) FILTER (outcome = 'failed') AS failed,
    count(*) FILTER (outcome = 'rolled_back') AS rolled_back, count(*) FILTER (outcome = 'in_flight') AS in_flight
  FROM tries WHERE ordinal < $below
"""
ALL = 1 << 62


def open_books(run_folder: Path, retired: Retired) -> Any:
    """Return a connection with the tables above beside the views of `query`; errors as in `connect`."""
    connection = connect(run_folder)
    connection.execute(
        PREPARE.format(
            through_seq=retired.through_seq,
            tasks_per_epoch=retired.tasks_per_epoch,
            ledger_below=retired.ledger_below,
            payloads_below=retired.payloads_below,
        )
    )
    return connection


def totals(books: Any, retired: Retired, below: int = ALL) -> dict[str, int]:
    """Return how many attempts reached which state: those retired before, and those of groups below an ordinal."""
    row = books.execute(TOTALS, {"below": below}).fetchone()
    names = [column[0] for column in books.description]
    return {name: count + retired.totals.get(name, 0) for name, count in zip(names, row, strict=True)}


def checkpoint_states(run_folder: Path) -> list[tuple[int, Path, dict[str, Any]]]:
    """Return (run epoch, state.json, version and trained digest and count) of every finished checkpoint.

    Raises:
      DataError: one is unreadable.
    """
    found = []
    for path in (run_folder / "checkpoints").glob("[!.]*/state.json"):  # a leading dot marks one being written
        try:
            content = json.loads(path.read_bytes())
            state = {name: content.get("progress", content)[name] for name in STATE}
        except (ValueError, KeyError) as error:
            raise DataError(f"{path} lacks {', '.join(STATE)}: {error!r}; restore it from a copy") from error
        found.append((content.get("epoch", 0), path, state))
    return found

"""The audit: three sources that were written apart must tell the same story.

    ledger/cursor.json      which slots were issued
    trajectories/, events   what became of each attempt, and its payload
    versions, checkpoints   which ids the learner says it was trained on, as a chained digest

Each rule is a query that returns what breaks it. An attempt's outcome is its last word; attempts add up:
admitted = trained + dropped + failed + rolled_back + in_flight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buffers.ledger import SEQ_BITS, read_cursor
from buffers.records.lineage import SurvivingLineage
from buffers.records.query import connect
from buffers.run_folder import read_run
from configs.errors import DataError

__all__ = ["Audit", "audit"]

SHOWN = 20  # ids that a problem names
CLOSED = ("finished", "stopped")
STATE = ("version", "trained_digest", "trained_count")  # of a checkpoint's state.json

PREPARE = """
CREATE TABLE e AS SELECT seq, run_epoch, event::VARCHAR AS event, id, version, reason, attempt, node,
    concat_ws(':', source, epoch, task, sample) AS slot, slot || '.' || attempt AS try,
    count(*) FILTER (event::VARCHAR = 'rolled_back') OVER (PARTITION BY id ORDER BY seq ROWS UNBOUNDED PRECEDING) AS era
  FROM events;
CREATE TABLE tries AS SELECT try, any_value(slot) AS slot, any_value(attempt) AS attempt,
    count(*) FILTER (event = 'admitted') AS admitted,
    bool_or(event = 'generated') AS generated, bool_or(event = 'scored') AS scored,
    coalesce(arg_max(event, seq) FILTER (event IN ('trained', 'dropped', 'failed', 'rolled_back')), 'in_flight')
      AS outcome,
    attempt = max(any_value(attempt)) OVER (PARTITION BY any_value(slot)) AS is_last
  FROM e GROUP BY try, attempt;
CREATE TABLE p AS SELECT id, concat_ws(':', source, epoch, task, sample) || '.' || attempt AS try FROM trajectories;
"""

TOTALS = """
SELECT count(*) FILTER (admitted > 0) AS admitted, count(*) FILTER (generated) AS generated,
    count(*) FILTER (scored) AS scored, count(*) FILTER (outcome = 'trained') AS trained,
    count(*) FILTER (outcome = 'dropped') AS dropped, count(*) FILTER (outcome = 'failed') AS failed,
    count(*) FILTER (outcome = 'rolled_back') AS rolled_back, count(*) FILTER (outcome = 'in_flight') AS in_flight
  FROM tries
"""

RULES = {
    "events are missing or repeated just before": f"""
        SELECT id FROM (SELECT *, lag(seq) OVER (PARTITION BY run_epoch ORDER BY seq) + 1 AS due FROM e)
        WHERE seq <> coalesce(due, run_epoch::BIGINT << {SEQ_BITS})""",
    "attempts not admitted exactly once": "SELECT try FROM tries WHERE admitted <> 1",
    "attempts without the attempt before": """
        SELECT try FROM tries t WHERE attempt > 0
        AND NOT EXISTS (FROM tries b WHERE b.slot = t.slot AND b.attempt = t.attempt - 1)""",
    "attempts replaced though they had no end": "SELECT try FROM tries WHERE NOT is_last AND outcome = 'in_flight'",
    "slots trained and dispatched again": "SELECT try FROM tries WHERE NOT is_last AND outcome = 'trained'",
    "trajectories generated more than once": """
        SELECT id FROM e WHERE event = 'generated' GROUP BY id HAVING count(*) > 1""",
    "trajectories stored more than once": "SELECT id FROM p GROUP BY id HAVING count(*) > 1",
    "generated trajectories without a payload": """
        SELECT id FROM e WHERE event = 'generated' AND id NOT IN (SELECT id FROM p)""",
    "orphan payloads": """
        SELECT id FROM p LEFT JOIN tries USING (try)
        WHERE id NOT IN (SELECT id FROM e WHERE event = 'generated')
        AND coalesce(outcome, 'unknown') NOT IN (SELECT unnest($allowed))""",
    "trajectories scored before they were generated": """
        SELECT id FROM e GROUP BY id HAVING coalesce(min(seq) FILTER (event = 'scored')
        < coalesce(min(seq) FILTER (event = 'generated'), 1::BIGINT << 62), false)""",
    "trajectories trained without being scored and batched": """
        SELECT id FROM e t WHERE event = 'trained' AND NOT (
            EXISTS (FROM e b WHERE b.id = t.id AND b.event = 'batched' AND b.version = t.version AND b.seq < t.seq)
            AND EXISTS (FROM e s WHERE s.id = t.id AND s.event = 'scored' AND s.seq < t.seq))""",
    "trajectories trained more than once": """
        SELECT id FROM e WHERE event = 'trained' AND reason <> 'replay' GROUP BY id, era HAVING count(*) > 1""",
    "trajectories both trained and dropped or failed": """
        SELECT id FROM e GROUP BY id, era
        HAVING bool_or(event = 'trained') AND bool_or(event IN ('dropped', 'failed'))""",
    "training rolled back that the ledger does not have": """
        SELECT id FROM e r WHERE event = 'rolled_back' AND version IS NOT NULL AND NOT EXISTS (
            FROM e t WHERE t.id = r.id AND t.event = 'trained' AND t.version = r.version AND t.seq < r.seq)""",
    "attempts ended without a reason": """
        SELECT try FROM e WHERE event IN ('dropped', 'failed', 'rolled_back') AND reason = ''""",
}

# What holds once nothing moves any more.
CLOSED_RULES = {
    "slots in flight": "SELECT try FROM tries WHERE is_last AND outcome IN ('in_flight', 'rolled_back')",
    "slots issued but never admitted": "SELECT slot FROM issued WHERE slot NOT IN (SELECT slot FROM tries)",
    "slots admitted but never issued": "SELECT DISTINCT slot FROM tries WHERE slot NOT IN (SELECT slot FROM issued)",
}

ISSUED = """
CREATE TABLE issued AS
SELECT concat_ws(':', $source, k // $tasks_per_epoch, k % $tasks_per_epoch, sample) AS slot
FROM range($first, $first + $groups_issued) ks(k), range($num_generations) samples(sample)
"""


@dataclass(frozen=True)
class Audit:
    """What the books say; counts are attempts by their last word."""

    totals: dict[str, int]
    balanced: bool
    problems: list[str]
    """Each names a rule, how many break it, and the first of them."""


def audit(run_folder: Path) -> Audit:
    """Check the books of a run; of one that is still running, all but what is in flight.

    Raises:
      Corruption: stored bytes fail their checksum.
      DataError: this is no run folder, or a checkpoint in it is unreadable.
    """
    closed = read_run(run_folder).get("status") in CLOSED
    connection = connect(run_folder)
    try:
        connection.execute(PREPARE)
        row = connection.execute(TOTALS).fetchone()
        names = [column[0] for column in connection.description]
        problems = [*_broken_rules(connection, closed)]
        if closed:
            problems += _broken_closed_rules(connection, run_folder)
    finally:
        connection.close()
    problems += _broken_lineage(run_folder, closed)
    return Audit(dict(zip(names, row, strict=True)), not problems, problems)


def _broken_rules(connection: Any, closed: bool) -> Iterator[str]:
    # A payload is on disk before its ledger row, so in a live run it may belong to an attempt in flight.
    ended = ["dropped", "failed", "rolled_back"]
    parameters = {"allowed": ended if closed else [*ended, "in_flight"]}
    for what, sql in RULES.items():
        yield from _violation(what, connection, sql, parameters if "$allowed" in sql else None)


def _broken_closed_rules(connection: Any, run_folder: Path) -> Iterator[str]:
    cursor = read_cursor(run_folder / "ledger")
    wanted = ("source", "first", "groups_issued", "num_generations", "tasks_per_epoch")
    if missing := [name for name in wanted if name not in cursor]:
        yield f"ledger/cursor.json lacks {', '.join(missing)}"
        return
    connection.execute(ISSUED, {name: cursor[name] for name in wanted})
    for what, sql in CLOSED_RULES.items():
        yield from _violation(what, connection, sql, None)


def _violation(what: str, connection: Any, sql: str, parameters: dict[str, Any] | None) -> Iterator[str]:
    ids = sorted(row[0] for row in connection.execute(sql, parameters).fetchall())
    if ids:
        yield _problem(what, ids)


def _problem(what: str, ids: list[str]) -> str:
    return f"{what}: {len(ids)}: {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}"


def _broken_lineage(run_folder: Path, closed: bool) -> Iterator[str]:
    lineage = SurvivingLineage.load(run_folder)
    digests = lineage.digests()
    for key in lineage.duplicates:
        yield f"version {key[1]} of lineage {key[0]} has several rows"
    rows = list(zip(lineage.chain, lineage.batches, digests, strict=True))
    # While a run is open, a version's row can be on disk before the events of its batch.
    for row, batch, digest in rows if closed else rows[:-1]:
        if row.num_trained != len(batch):
            yield f"version {row.version} was trained on {row.num_trained} trajectories, the ledger has {len(batch)}"
        if row.trained_digest != digest:
            yield f"version {row.version} has trained_digest {row.trained_digest!r}, the ledger's ids give {digest!r}"
    newest = lineage.chain[-1].version if lineage.chain else 0
    # Likewise the version that the last update makes may not have its row yet.
    if lost := [i for i, version in lineage.unclaimed if closed or version < newest]:
        yield _problem("trajectories trained into no surviving version", lost)
    yield from _broken_checkpoint(run_folder, lineage, digests)


def _broken_checkpoint(run_folder: Path, lineage: SurvivingLineage, digests: list[str]) -> Iterator[str]:
    """Compare the newest checkpoint: what the learner counted itself."""
    newest = _newest_checkpoint(run_folder / "checkpoints")
    if newest is None:
        return
    path, state = newest
    versions = [row.version for row in lineage.chain]
    if state["version"] not in versions:
        if state["version"] > 0:
            yield f"{path} is of version {state['version']}, which the ledger's surviving lineage does not have"
        return
    at = versions.index(state["version"])
    count = sum(len(batch) for batch in lineage.batches[: at + 1])
    if state["trained_count"] != count:
        yield f"{path} counts {state['trained_count']} trained trajectories, the ledger has {count}"
    if state["trained_digest"] != digests[at]:
        yield f"{path} has trained_digest {state['trained_digest']!r}, the ledger's ids give {digests[at]!r}"


def _newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    found = []
    for path in folder.glob("[!.]*/state.json"):  # a leading dot marks one that is being written
        try:
            content = json.loads(path.read_bytes())
            state = {name: content.get("progress", content)[name] for name in STATE}
        except (ValueError, KeyError) as error:
            raise DataError(f"{path} lacks {', '.join(STATE)}: {error!r}; restore it from a copy") from error
        found.append((content.get("epoch", 0), state["version"], path, state))
    return max(found, key=lambda f: f[:2])[2:] if found else None

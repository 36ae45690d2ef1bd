"""The audit: three sources that were written apart must tell the same story.

    ledger/cursor.json      which slots were issued
    trajectories/, events   what became of each attempt, and its payload
    versions, checkpoints   which ids the learner says it was trained on, as a chained digest

Each rule is a query that returns what breaks it. An attempt's outcome is its last word; attempts add up:
admitted = trained + dropped + failed + rolled_back + in_flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buffers.ledger import SEQ_BITS, read_cursor
from buffers.records.books import checkpoint_states, open_books, totals
from buffers.records.lineage import SurvivingLineage
from buffers.retired import Retired, read_retired
from buffers.run_folder import read_run

__all__ = ["Audit", "audit"]

SHOWN = 20  # ids that a problem names
CLOSED = ("finished", "stopped")

RULES = {
    "events are missing or repeated just before": f"""
        SELECT id FROM (SELECT *, lag(seq) OVER (PARTITION BY run_epoch ORDER BY seq) + 1 AS due FROM numbered)
        WHERE seq <> coalesce(due, greatest(run_epoch::BIGINT << {SEQ_BITS}, $through_seq + 1))""",
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
        SELECT id FROM e WHERE event = 'generated' AND ordinal >= $payloads_below AND id NOT IN (SELECT id FROM p)""",
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
FROM range(greatest($first, $ledger_below), $first + $groups_issued) ks(k), range($num_generations) samples(sample)
"""


@dataclass(frozen=True)
class Audit:
    """What the books say; counts are attempts by their last word."""

    totals: dict[str, int]
    balanced: bool
    problems: list[str]
    """Each names a rule, how many break it, and the first of them."""
    retired: str = ""
    """What the run let go of on purpose; its attempts are in the totals."""


def audit(run_folder: Path) -> Audit:
    """Check the books of a run; of one that is still running, all but what is in flight.

    Raises:
      Corruption: stored bytes fail their checksum.
      DataError: this is no run folder, or a checkpoint in it is unreadable.
    """
    closed = read_run(run_folder).get("status") in CLOSED
    retired = read_retired(run_folder)
    books = open_books(run_folder, retired)
    try:
        counts = totals(books, retired)
        problems = [*_broken_rules(books, closed, retired)]
        if closed:
            problems += _broken_closed_rules(books, run_folder, retired)
    finally:
        books.close()
    problems += _broken_lineage(run_folder, closed, retired)
    return Audit(counts, not problems, problems, str(retired) if retired.payloads_below else "")


def _broken_rules(books: Any, closed: bool, retired: Retired) -> Iterator[str]:
    # A payload is on disk before its ledger row, so in a live run it may belong to an attempt in flight.
    ended = ["dropped", "failed", "rolled_back"]
    values = {
        "allowed": ended if closed else [*ended, "in_flight"],
        "through_seq": retired.through_seq,
        "payloads_below": retired.payloads_below,
    }
    for what, sql in RULES.items():
        yield from _violation(what, books, sql, {name: value for name, value in values.items() if f"${name}" in sql})


def _broken_closed_rules(books: Any, run_folder: Path, retired: Retired) -> Iterator[str]:
    cursor = read_cursor(run_folder / "ledger")
    wanted = ("source", "first", "groups_issued", "num_generations", "tasks_per_epoch")
    if missing := [name for name in wanted if name not in cursor]:
        yield f"ledger/cursor.json lacks {', '.join(missing)}"
        return
    books.execute(ISSUED, {**{name: cursor[name] for name in wanted}, "ledger_below": retired.ledger_below})
    for what, sql in CLOSED_RULES.items():
        yield from _violation(what, books, sql, {})


def _violation(what: str, books: Any, sql: str, parameters: dict[str, Any]) -> Iterator[str]:
    ids = sorted(row[0] for row in books.execute(sql, parameters).fetchall())
    if ids:
        yield _problem(what, ids)


def _problem(what: str, ids: list[str]) -> str:
    return f"{what}: {len(ids)}: {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}"


def _broken_lineage(run_folder: Path, closed: bool, retired: Retired) -> Iterator[str]:
    lineage = SurvivingLineage.load(run_folder)
    digests = lineage.digests()
    for key in lineage.duplicates:
        yield f"version {key[1]} of lineage {key[0]} has several rows"
    rows = list(zip(lineage.chain, lineage.batches, digests, strict=True))
    # While a run is open, a version's row can be on disk before the events of its batch.
    for row, batch, digest in rows if closed else rows[:-1]:
        if row.version <= retired.version:
            if row.version == retired.version and row.trained_digest != retired.trained_digest:
                yield f"version {row.version} has trained_digest {row.trained_digest!r}, what was retired had another"
            continue
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
    states = checkpoint_states(run_folder)
    if not states:
        return
    _, path, state = max(states, key=lambda found: (found[0], found[2]["version"]))
    versions = [row.version for row in lineage.chain]
    if state["version"] not in versions:
        if state["version"] > 0:
            yield f"{path} is of version {state['version']}, which the ledger's surviving lineage does not have"
        return
    at = versions.index(state["version"])
    count = sum(lineage.counts()[: at + 1])
    if state["trained_count"] != count:
        yield f"{path} counts {state['trained_count']} trained trajectories, the ledger has {count}"
    if state["trained_digest"] != digests[at]:
        yield f"{path} has trained_digest {state['trained_digest']!r}, the ledger's ids give {digests[at]!r}"

"""The witness of a storm: it reads files and nothing else, and shares no rule with the audit.

It knows the columns of the stored tables, and what a user was promised: no slot is trained twice, none vanishes,
nothing is trained that is too old, failed, or never stored.
"""

from __future__ import annotations

from pathlib import Path

from buffers.records.query import query

__all__ = ["wrongs"]

SLOT = "concat_ws(':', source, epoch, task, sample)"
FATES = ("trained", "dropped", "failed", "rolled_back")

PROMISES = {
    "slots trained twice": f"""
        SELECT {SLOT} AS found FROM events WHERE event = 'trained' OR (event = 'rolled_back' AND version IS NOT NULL)
        GROUP BY {SLOT} HAVING sum(CASE event WHEN 'trained' THEN 1 ELSE -1 END) NOT IN (0, 1)""",
    "trained without a stored payload": """
        SELECT id AS found FROM events WHERE event = 'trained' AND id NOT IN (SELECT id FROM trajectories)""",
    "trained on tokens older than the bound": """
        SELECT e.id AS found FROM events e JOIN trajectories t ON e.id = t.id
        WHERE e.event = 'trained' AND e.version - list_min(t.version_values) > {bound}""",
    "trained on tokens of a version that came later": """
        SELECT e.id AS found FROM events e JOIN trajectories t ON e.id = t.id
        WHERE e.event = 'trained' AND list_max(t.version_values) > e.version""",
    "trained without a valid reward": """
        SELECT id AS found FROM events WHERE event = 'trained' AND (reward IS NULL OR isnan(reward))""",
    "versions with two rows": """
        SELECT concat(lineage, ' v', version) AS found FROM versions GROUP BY lineage, version, model
        HAVING count(*) > 1""",
    "lineages with gaps in their versions": """
        SELECT concat('lineage ', lineage) AS found FROM versions WHERE model = 'policy'
        GROUP BY lineage HAVING max(version) - min(version) + 1 <> count(*)""",
    "updates that trained on another number than their row says": """
        WITH made AS (SELECT lineage, version - 1 AS version, num_trained FROM (
                SELECT *, min(version) OVER (PARTITION BY lineage) AS first FROM versions WHERE model = 'policy')
                WHERE version > first),
             trained AS (SELECT lineage, version, count(*) AS n FROM events WHERE event = 'trained' GROUP BY ALL)
        SELECT concat('lineage ', lineage, ' v', version) AS found FROM made JOIN trained USING (lineage, version)
        WHERE num_trained <> n""",
}

OVER = {
    "slots without an end": f"""
        WITH last AS (SELECT {SLOT} AS slot, last(event ORDER BY seq) AS event FROM events
            WHERE event IN ('admitted', {", ".join(repr(f) for f in FATES)}) GROUP BY slot)
        SELECT slot AS found FROM last WHERE event IN ('admitted', 'rolled_back')""",
    "tasks that were skipped": """
        WITH seen AS (SELECT DISTINCT source, epoch, task FROM events WHERE event = 'admitted'),
             epochs AS (SELECT source, epoch, max(task) + 1 AS tasks, count(*) AS n FROM seen GROUP BY ALL)
        SELECT concat(source, ' epoch ', epoch) AS found FROM epochs WHERE tasks <> n""",
    "groups that lack a sample": """
        WITH sizes AS (SELECT source, epoch, task, count(DISTINCT sample) AS n FROM events GROUP BY ALL)
        SELECT concat_ws(':', source, epoch, task) AS found FROM sizes WHERE n <> (SELECT max(n) FROM sizes)""",
}


def wrongs(run: Path, *, over: bool) -> list[str]:
    """Return every broken promise of a run, with the first that break it; [] is what a storm must leave.

    Args:
      over: the run has ended, so nothing may be under way.
    """
    bound = int(_setting(run, "max_staleness"))
    found = []
    for what, sql in (PROMISES | (OVER if over else {})).items():
        rows = [row["found"] for row in query(run, sql.replace("{bound}", str(bound))).to_pylist()]
        if rows:
            found.append(f"{what}: {len(rows)}: {', '.join(rows[:5])}")
    return found


def _setting(run: Path, key: str) -> str:
    """Return a plain setting at the top of the run's configuration, without our loader."""
    line = next(line for line in (run / "config.yaml").read_text().splitlines() if line.startswith(f"{key}:"))
    return line.partition(":")[2].strip()

"""A few trajectories of a run for people to look at: what earns least, and what earns most."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from buffers.records.query import query

__all__ = ["example_rows"]

NEWEST = 2048  # trajectories among which examples are chosen: what the policy does now, not what it did first

SHOWN = """
SELECT prompt, completion, answer, "group", oldest_version AS version, value AS reward, parts
FROM (SELECT *, row_number() OVER (ORDER BY finished_at DESC, id) AS rank FROM trajectories) t
JOIN (
  SELECT trajectory_id, avg(value) AS value,
         CASE WHEN count(*) > 1 THEN string_agg(concat(component, ' ', coalesce(printf('%.3g', value), status)), ', '
                                                ORDER BY component) END AS parts
  FROM scores GROUP BY trajectory_id
) s ON s.trajectory_id = t.id
WHERE rank <= {newest} ORDER BY rank
"""
"""The newest scored ones; the reward is the mean of the valid component values."""


def example_rows(run_folder: Path, count: int = 12) -> list[dict[str, Any]]:
    """Return examples among the newest scored trajectories, at most one of each group of a task and kind.

    Half of them earned least and half most; where all earned the same, the newest ones are returned. Keys:
    kind, prompt, completion, answer, version (of the oldest token), reward and parts (its components).
    """
    rows: list[dict[str, Any]] = query(run_folder, SHOWN.format(newest=NEWEST)).to_pylist()
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    if not rewards or min(rewards) == max(rewards):
        return _chosen("Newest samples", rows, count)
    scored = [row for row in rows if row["reward"] is not None]
    middle = (min(rewards) + max(rewards)) / 2
    low = sorted((row for row in scored if row["reward"] <= middle), key=lambda row: row["reward"])
    high = sorted((row for row in scored if row["reward"] > middle), key=lambda row: -row["reward"])
    half = (count + 1) // 2
    return _chosen("Lowest recent rewards", low, half) + _chosen("Highest recent rewards", high, half)


def _chosen(kind: str, rows: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the first row of each of the first `count` groups."""
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        groups.setdefault(row["group"], row)
    first = list(groups.values())[:count]
    return [{"kind": kind, **{key: value for key, value in row.items() if key != "group"}} for row in first]

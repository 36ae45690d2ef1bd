"""A few trajectories of a run for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buffers.records.query import query

__all__ = ["example_rows"]

SHOWN = """
SELECT prompt, completion, answer, value AS reward
FROM (SELECT *, row_number() OVER (ORDER BY finished_at DESC, id) AS rank FROM trajectories) t
JOIN (SELECT trajectory_id, avg(value) AS value FROM scores GROUP BY trajectory_id) s ON s.trajectory_id = t.id
WHERE rank % 8 = 1 ORDER BY rank LIMIT {count}
"""
"""One of every eight of the newest ones, so that groups differ; the mean of the valid component values."""


def example_rows(run_folder: Path, count: int = 12) -> list[dict[str, Any]]:
    """Return prompt, completion, answer and reward of the newest scored trajectories."""
    rows: list[dict[str, Any]] = query(run_folder, SHOWN.format(count=int(count))).to_pylist()
    return rows

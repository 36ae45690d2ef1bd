"""Are the lanes of a decision run whole? Read from its files alone.

What was trained of a lane must be one sequence of episodes without a gap: each fragment begins where the one before
it ended, be it in another process, or before a kill.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from buffers.records.lineage import SurvivingLineage
from buffers.segments import read_stream
from buffers.tables import TRAJECTORY

__all__ = ["Told", "breaks", "lanes_of"]


class Told(NamedTuple):
    """A trained fragment, as it tells of itself."""

    id: str
    came_from: tuple[int, int]
    """(seed of the episode, step within it)"""
    leads_to: tuple[int, int]
    episodes: list[int]
    """Lengths of those that ended in it."""


def lanes_of(run: Path) -> dict[int, list[Told]]:
    """Return the fragments of the surviving lineage by lane, in the order in which they were stored."""
    trained = {name for batch in SurvivingLineage.load(run).batches for name in batch}
    stored = read_stream(run / "trajectories", "trajectories", TRAJECTORY).select(["id", "task", "metadata"])
    lanes: defaultdict[int, list[Told]] = defaultdict(list)
    for row in stored.to_pylist():
        if row["id"] in trained:
            lanes[row["task"]].append(_told(row))
    assert sum(map(len, lanes.values())) == len(trained), "a payload is missing, or stored twice"
    return dict(lanes)


def breaks(run: Path) -> list[str]:
    """Name the fragments that do not begin where the one before them in their lane ended."""
    found = []
    for fragments in lanes_of(run).values():
        for before, after in pairwise(fragments):
            if after.came_from != before.leads_to:
                found.append(f"{after.id} begins at {after.came_from}, {before.id} ended at {before.leads_to}")
    return found


def _told(row: dict[str, Any]) -> Told:
    note = json.loads(row["metadata"])
    ends = [(note[end]["seed"], note[end]["step"]) for end in ("environment", "left")]
    return Told(row["id"], *ends, [length for _, length, _ in note["episodes"]])

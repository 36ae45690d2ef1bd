"""Filters that drop groups by their mean, and those that leave single samples out."""

from __future__ import annotations

from pathlib import Path

import pytest

from buffers.consistency import ProcessConsistency
from buffers.filters import MeanRange
from buffers.records.audit import audit
from buffers.records.query import query
from buffers.scores import Score, ScoreStatus
from buffers.trajectory import Unit
from tests.unit.stream_scene import Scene, Verdict

RULE = ProcessConsistency(outcome="correct", process="steps", keep=2)


def scored(scene: Scene, units: list[Unit], right: list[float], steps: list[tuple[float, ...] | None]) -> None:
    """Deliver and score; steps of None are a failed score."""
    scene.deliver(units)
    failed = Score.invalid(ScoreStatus.TIMEOUT, "late")
    found = {}
    for unit, value, values in zip(units, right, steps, strict=True):
        process = failed if values is None else Score(value=0.0, span_values=values)
        found[f"{unit.slot}.{unit.attempt}.0"] = Verdict(value, "", {"correct": Score(value=value), "steps": process})
    scene.buffer.scored(found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [([0, 0, 0, 1], None), ([0, 0, 0, 0], "too_hard"), ([1, 1, 1, 1], "too_easy"), ([0, 1, 1, 1], None)],
)
def test_groups_are_kept_by_their_mean(rewards: list[float], reason: str | None):
    assert MeanRange(low=0.25, high=0.75).reason(rewards) == reason


def test_the_inconsistent_are_left_out_and_the_books_balance(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=4, max_staleness=0, filters=[RULE])
    units = scene.buffer.lease("w0", 4)
    steps: list[tuple[float, ...] | None] = [(0.9, 0.8), (0.2, 0.1), (0.7, 0.9), (0.1, 0.3)]
    scored(scene, units, [1.0, 1.0, 0.0, 0.0], steps)
    batch = scene.train()
    assert [row.id for row in batch.rows] == [f"{units[i].slot}.0.0" for i in (0, 3)]
    assert scene.buffer.dropped == {"inconsistent": 2}
    assert scene.buffer.payloads.held_bytes == 0
    scene.close()
    books = audit(tmp_path / "run")
    assert books.balanced, books.problems
    assert books.totals["trained"] == books.totals["dropped"] == 2
    gone = query(
        tmp_path / "run", "SELECT id FROM events WHERE event = 'dropped' AND reason = 'inconsistent' ORDER BY id"
    )
    assert gone["id"].to_pylist() == [f"{units[i].slot}.0.0" for i in (1, 2)]


def test_without_step_scores_of_all_nothing_is_left_out(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=4, max_staleness=0, filters=[RULE])
    units = scene.buffer.lease("w0", 4)
    scored(scene, units, [1.0, 1.0, 0.0, 0.0], [(0.9, 0.8), None, (0.7, 0.9), (0.1, 0.3)])
    assert len(scene.train().rows) == 4
    scene.close()


def test_filters_with_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="keep is 0"):
        ProcessConsistency(outcome="correct", process="steps", keep=0)
    with pytest.raises(ValueError, match=r"low is 0.9"):
        MeanRange(low=0.9, high=0.1)

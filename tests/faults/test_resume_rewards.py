"""SIGKILL of a whole run whose reward is learned meanwhile: labels are asked for once, and no version number means two
models, in any life of the run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import launch
from tests.faults.killed_runs import LANES, Run, check_nothing_is_lost, kill_at_random, last_words
from tests.faults.unbroken import breaks

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.timeout(600)]

WORDS = (
    "environment.backend={target: gymnasium, id: MiniGrid-DoorKey-5x5-v0, keys: [image]}", "max_staleness=2",
    "environment.fragment_length=32", "exploration.annotation.batch_size=2", "rollout.max_delay_s=0.02",
)  # fmt: skip
SCORED = """
SELECT s.version, t.captions, s.vector FROM scores s JOIN trajectories t ON s.trajectory_id = t.id
WHERE s.component = 'intrinsic' AND s.status = 'ok'
"""
LABELS = "SELECT item, value FROM labels WHERE value IS NOT NULL"


def values(run: Run) -> dict[tuple[int, str], set[float]]:
    """Return (version, caption) -> the values that it was given, over all lives of the run."""
    found: dict[tuple[int, str], set[float]] = {}
    for row in run.sql(SCORED):
        for caption, value in zip(row["captions"], row["vector"], strict=True):
            found.setdefault((row["version"], caption), set()).add(value)
    return found


def test_a_learned_reward_keeps_its_labels_and_its_numbers_over_kills(tmp_path: Path):
    base = ("configs/minigrid_oni.yaml", *LANES[1:])
    run = Run(tmp_path, WORDS, base)
    kill_at_random(run, seed=3, times=3)
    at_the_kill, before = last_words(run), run.sql(LABELS)
    known = max(version for version, _ in values(run))
    assert before and known, "nothing was learned before the kill: the test proved nothing"
    reached = run.sql("SELECT max(version) AS v FROM versions WHERE model = 'policy'")[0]["v"]
    assert run.resume(f"updates={reached + 20}") == 0, run.log
    check_nothing_is_lost(run, at_the_kill)
    assert breaks(run.path) == []
    labels = run.sql(LABELS)
    assert labels[: len(before)] == before, "a label was lost"
    items = [tuple(row["item"]) for row in labels]
    assert len(items) == len(set(items)), "an item was labelled twice"
    given = values(run)
    assert {key: found for key, found in given.items() if len(found) > 1} == {}, "one number, two models"
    assert max(version for version, _ in given) >= known
    assert launch.main(["replay", str(run.path)]) == 0

"""A whole run with PRIME in one process: versions, books, replay, and going on after an end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import launch
from buffers.records.audit import audit
from buffers.records.query import query

PRESET = Path(launch.__file__).parent / "configs" / "prime.yaml"
QUICK = [
    "cluster.address=local", "updates=6", "batch.prompts_per_update=4", "rollout.slots=32", "eval.tasks=0",
    "warm_start.updates=20", "warm_start.batch_size=32", "warm_start.threads=1", "logging.report=false",
    "logging.tensorboard=false", "buffer.filters=[]", "checkpoint.every=2",
]  # fmt: skip
SCORES = """
SELECT update_version AS consumed, s.version, value, len(span_values) AS steps, spans[1].start AS start, t.num_sampled,
t."group" FROM scores s JOIN trajectories t ON t.id = s.trajectory_id WHERE component = 'process' ORDER BY consumed
"""

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prime")
    assert launch.main(["run", str(PRESET), "name=run", f"runs_folder={folder}", *QUICK]) == 0
    return folder / "run"


def versions(run: Path) -> list[Path]:
    return sorted((run / "rewards" / "process").glob("v*.state"))


def test_the_policy_learns_from_versions_that_were_made_meanwhile(run: Path):
    rows = query(run, SCORES).to_pylist()
    assert {row["consumed"] for row in rows} == set(range(6))
    assert all(row["steps"] == row["num_sampled"] for row in rows), "one reward for each sampled token"
    assert all(row["value"] == 0.0 for row in rows if row["version"] == 0)
    later = [row for row in rows if row["version"] > 0]
    assert later and any(row["value"] for row in later)
    groups: dict[tuple[int, str], set[int]] = {}
    for row in rows:
        groups.setdefault((row["consumed"], row["group"]), set()).add(row["version"])
    assert all(len(found) == 1 for found in groups.values()), "one version in a group's baseline"
    assert audit(run).balanced, audit(run).problems


def test_what_the_learner_of_the_reward_says_is_a_metric(run: Path):
    names = set(query(run, "SELECT DISTINCT name FROM metrics")["name"].to_pylist())
    assert {f"rewards/process/learner/{name}" for name in ("version", "loss", "outcome_accuracy", "lessons")} <= names
    assert {"rewards/process/mean", "rewards/correct/mean"} <= names


def test_the_run_is_reproduced_from_the_recorded_scores(run: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert launch.main(["replay", str(run), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["versions"], found["differences"]) == (7, [])


def test_a_resumed_run_goes_on_with_the_reward_model_it_had(run: Path):
    # Last in this file: it makes the run longer.
    before = int(versions(run)[-1].stem[1:])
    words = [*QUICK, "updates=8", "resume=true", "name=run", f"runs_folder={run.parent}"]
    assert launch.main(["run", str(PRESET), *words]) == 0
    later = [row["version"] for row in query(run, SCORES).to_pylist() if row["consumed"] >= 6]
    assert later and min(later) >= before, "no version is used for two models, and none is forgotten"
    assert audit(run).balanced

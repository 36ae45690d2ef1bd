"""Real runs: one learns from the rewards of steps alone, and replays; in another one rewards ask the policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch
from buffers.records.query import query

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")
STEPS = (
    "rewards.components.sevens={component: {target: 'tests.integration.stepwise:Sevens'}, credit: steps,"
    " weight: {target: linear, start: 0.5, end: 1.0, updates: 5}, transforms: [{target: clip, high: 0.9}]}"
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stepwise")
    words = [SMOKE, "name=run", f"runs_folder={folder}", "cluster.address=local", STEPS]
    # The outcome has no weight: whatever is learned comes from the steps.
    words += [
        "rewards.components.correct.weight=0.0",
        "learner.advantage={target: process_return, whiten: false, scale_steps: false}",
    ]
    words += ["warm_start.updates=5", "updates=25", "learner.learning_rate=3e-3", "max_staleness=1"]
    words += ["eval.tasks=0", "logging.report=false", "logging.view=quiet", "buffer.fsync=false"]
    assert launch.main(["run", *words]) == 0
    return folder / "run"


def test_a_policy_learns_from_the_rewards_of_steps_alone(run: Path):
    rows = query(
        run,
        """
        SELECT e.version, avg(s.value) AS share, any_value(len(s.span_values)) AS steps
        FROM events e JOIN scores s ON s.trajectory_id = e.id
        WHERE e.event = 'trained' AND s.component = 'sevens' GROUP BY e.version ORDER BY e.version
        """,
    ).to_pylist()
    first, last = rows[0]["share"], rows[-1]["share"]
    assert len(rows) == 25 and first < 0.3 and last > first + 0.4, [row["share"] for row in rows]


def test_every_hash_of_a_run_with_steps_a_schedule_and_a_transform_is_reproduced(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    code = launch.main(["replay", str(run), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (code, result["versions"], result["differences"]) == (0, 26, [])


def test_a_reward_is_told_what_the_sampling_version_says_of_its_own_tokens(tmp_path: Path):
    asked = (
        "rewards.components.known={component: {target: 'tests.integration.stepwise:Remembered'},"
        " weight: 0.0, deadline_s: 60.0}"
    )
    words = [SMOKE, "name=asked", f"runs_folder={tmp_path}", "cluster.address=local", "mode=sync", "max_staleness=0"]
    words += [asked, "warm_start.updates=5", "updates=3", "eval.tasks=0", "logging.report=false", "logging.view=quiet"]
    assert launch.main(["run", *words]) == 0
    rows = query(
        tmp_path / "asked",
        """
        SELECT e.version AS consumed, s.version, t.oldest_version, s.status, s.value,
          r.total, r.parts['correct'] AS correct
        FROM events e JOIN scores s ON s.trajectory_id = e.id JOIN trajectories t USING (id) JOIN rewards r USING (id)
        WHERE e.event = 'trained' AND s.component = 'known'
        """,
    ).to_pylist()
    assert len(rows) == 3 * 32 and {row["consumed"] for row in rows} == {0, 1, 2}
    for row in rows:
        assert (row["status"], row["version"], row["oldest_version"]) == ("ok", row["consumed"], row["consumed"])
        assert row["value"] < 1e-4 and row["total"] == row["correct"]

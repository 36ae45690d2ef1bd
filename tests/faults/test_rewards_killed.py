"""A live run on Ray whose rewards learn and ask models of the run: both are killed, then everything, and it goes on.

PRIME learns from the outcomes beside the policy; a judge asks a pool of two members, each with a model of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.live_run import LiveRun, running
from tests.unit.served_model import judge_folder

pytestmark = [pytest.mark.integration, pytest.mark.fault]

PROMPT = "{number} {question} {answer} {principle} Yes or No?"
ENDPOINT = "{model_pool: judge, temperature: 1.0}"
USED = """
SELECT update_version AS consumed, count(*) AS n, min(s.version) AS first, max(s.version) AS last FROM scores s
WHERE component = 'process' AND s.status = 'ok' GROUP BY consumed ORDER BY consumed
"""


def words() -> tuple[str, ...]:
    part, prompt = "rewards.components", Path(judge_folder()) / "prompt.txt"
    prompt.write_text(PROMPT)  # short, for a machine that has other things to do
    judge = f"{{target: judge_log_odds, principle: short, top: 100, template: '{prompt}', endpoint: {ENDPOINT}}}"
    return (
        f"{part}.correct.component={{target: 'tests.faults.slow_reward:SlowLength', modulus: 2, pause_s: 0.02}}",
        f"{part}.process.component={{target: prime, after: [correct], learning_rate: 1.0e-3}}",
        f"{part}.process.credit=steps", f"{part}.process.deadline_s=60", "learner.advantage={target: process_return}",
        f"rewards.models.judge={{path: '{judge_folder()}', engine: torch, replicas: 2, context_length: 256}}",
        f"{part}.odds.component={judge}", f"{part}.odds.deadline_s=60", f"{part}.odds.weight=0.01",
        "checkpoint.every=2",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    with running(tmp_path_factory.mktemp("live"), *words()) as live:
        yield live


def statuses(run: LiveRun, component: str) -> dict[str, int]:
    rows = run.sql(f"SELECT status, count(*) AS n FROM scores WHERE component = '{component}' GROUP BY status")
    return {row["status"]: row["n"] for row in rows}


def newest(run: LiveRun) -> int:
    """Return the newest version of PRIME's model on disk."""
    found = sorted((run.path / "rewards" / "process").glob("v*.state"))
    return int(found[-1].stem[1:]) if found else 0


def kill_one(run: LiveRun, pool: str) -> None:
    """Kill a member, and wait until it is replaced."""
    name, pid = next(iter(run.pids(pool).items()))
    os.kill(pid, signal.SIGKILL)
    size = len(run.pids(pool)) or 1
    run.wait("its replacement", lambda: (now := run.pids(pool)) and name not in now and len(now) >= size)


def test_a_killed_member_of_a_models_pool_costs_the_judge_no_score(run: LiveRun):
    kill_one(run, "model.judge")
    run.progress()
    assert run.command("scale", "model.judge=1")["model.judge"]["after"] == 1
    run.progress()
    assert set(statuses(run, "odds")) == {"ok"}
    values = run.sql("SELECT count(DISTINCT value) AS n FROM scores WHERE component = 'odds'")
    assert values[0]["n"] > 1, "the model said the same of everything: the test proved nothing"


def test_a_killed_learner_of_a_reward_goes_on_with_its_versions(run: LiveRun):
    run.wait("a version", lambda: newest(run) >= 1)
    before = newest(run)
    kill_one(run, "reward_learner.process")
    run.wait("later versions", lambda: newest(run) > before + 1)
    run.progress()
    used: list[dict[str, Any]] = run.sql(USED)
    assert used[-1]["last"] > before
    assert all(earlier["last"] <= later["last"] for earlier, later in itertools.pairwise(used))


def test_a_killed_server_of_a_reward_that_learns_is_replaced_and_what_it_took_along_is_bounded(run: LiveRun):
    kill_one(run, "reward.process")
    run.progress()
    assert set(statuses(run, "process")) == {"ok"}


def test_a_run_that_was_killed_as_a_whole_resumes_with_versions_no_older_than_it_used(run: LiveRun):
    run.wait("a checkpoint", lambda: list((run.path / "checkpoints").glob("v*")))
    pids = [pid for pool in run.command("status")["pools"].values() for pid in pool["pids"].values()]
    assert run.process is not None
    run.process.kill()
    run.process.wait()
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    before, used = newest(run), run.sql(USED)
    trained = run.trained
    run.start("resume=true")
    run.wait("training", lambda: run.trained >= trained + 64)
    later = run.sql(USED.replace("GROUP BY", f"AND s.time > {_resumed(run)} GROUP BY"))
    assert later and min(row["first"] for row in later) >= max(row["last"] for row in used)
    assert newest(run) >= before
    run.command("stop")
    assert run.finish() == 0, run.log
    run.check_books()
    figures = json.loads((run.path / "summary.json").read_text())["rewards"]["process"]
    assert figures["lessons"] > 0
    met = sum(int(path.read_text()) for path in (run.path / "rewards" / "process" / "met").iterdir())
    assert met >= statuses(run, "process")["ok"] and 0 <= figures["lost"] < met, "all that was scored was counted"


def _resumed(run: LiveRun) -> float:
    """Return when the present process of the run began."""
    return float(run.command("status")["started"])

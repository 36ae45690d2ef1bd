"""Pools of a run on Ray: they grow and shrink without wasting an attempt, a lost node takes nothing along, a slot that
kills workers is set aside, and what a silent worker holds is given to others.

Two runs, each started as a user does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from buffers.identity import Slot
from tests.faults.live_run import LiveRun, running
from tests.faults.poison_program import POISON
from tests.faults.two_nodes import nodes
from tests.unit.test_exits import TELLS

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.timeout(600)]

BY_WORKER = "SELECT worker, count(*) AS n FROM events WHERE event = 'generated' GROUP BY ALL"


def again(run: LiveRun) -> list[dict[str, str]]:
    """Return the attempts that were given up for another one, and why."""
    return run.sql("SELECT id, reason FROM events WHERE event = 'dropped' AND reason <> 'run_ended'")


def workers(run: LiveRun) -> dict[str, int]:
    """Return worker -> trajectories that it brought, from the ledger."""
    return {row["worker"]: row["n"] for row in run.sql(BY_WORKER)}


def test_a_pool_grows_to_eight_and_back_to_one_while_a_node_is_lost(tmp_path: Path) -> None:
    with nodes() as both, running(tmp_path, *both.words) as run:
        both.join()
        assert run.command("scale", "rollout=8") == {"rollout": {"before": 1, "after": 8}}
        run.wait("work of all eight", lambda: len(workers(run)) == 8)
        assert again(run) == [], "growing threw an attempt away"
        lost = both.on_second(run)
        assert 0 < len(lost) < 8, "the workers are on both nodes"
        both.cut()
        run.wait("eight others", lambda: len(found := run.pids("rollout")) == 8 and not lost & set(found))
        run.progress()
        assert {row["reason"] for row in again(run)} == {"worker_lost"}, "the lost ones held something, and that alone"
        wasted = len(again(run))
        assert run.command("scale", "rollout=1") == {"rollout": {"before": 8, "after": 1}}
        run.wait("the farewells", lambda: not run.command("status")["pools"]["rollout"]["leaving"])
        (left,) = run.pids("rollout")
        gone = {name: count for name, count in workers(run).items() if name != left}
        run.progress()
        assert {name: n for name, n in workers(run).items() if name in gone} == gone, "who has left brings nothing more"
        run.command("stop")
        assert run.finish() == 0, run.log
        assert len(again(run)) == wasted, "shrinking threw an attempt away"
        run.check_books()


def test_a_slot_that_kills_its_workers_is_set_aside_and_a_silent_worker_is_relieved(tmp_path: Path) -> None:
    poison = "rollout.program={target: 'tests.faults.poison_program:Poisonous'}"
    # Neither a heartbeat nor a lost call tells of the silent one: only that no batch comes.
    patient = ("cluster.heartbeat_deadline_s=600", "cluster.call_deadline_s=600", "cluster.progress_deadline_s=30")
    with running(tmp_path, poison, *patient, "rollout.workers=2", "rollout.num_cpus=0.5") as run:
        quarantine = run.path / "quarantine"
        run.wait("the quarantine", lambda: quarantine.is_dir() and list(quarantine.glob("*.json")))
        run.progress()
        silent, pid = next(iter(run.pids("rollout").items()))
        os.kill(pid, signal.SIGSTOP)
        try:
            run.wait("relief", lambda: f"replaced: {silent}" in run.log)
            assert f"{silent} holds " in run.log and "brought nothing for" in run.log, "it says who has what, by id"
            run.progress()
            assert silent not in run.pids("rollout")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        run.command("stop")
        assert run.finish() == 0, run.log
        (file,) = quarantine.glob("*.json")  # no bystander
        found = json.loads(file.read_text())
        assert Slot.parse(found["slot"])[1:] == POISON and found["task"]["prompt"]
        kills = found["kills"]
        assert len(kills) == 3 and kills[0]["held"] > kills[-1]["held"] == 1
        assert len({kill["worker"] for kill in kills}) == 3 and [kill["attempt"] for kill in kills] == [0, 1, 2]
        assert all(("killed by SIGKILL" if TELLS else "exit") in kill["exit"] for kill in kills), kills
        (failed,) = run.sql("SELECT id FROM events WHERE event = 'failed' AND reason LIKE 'quarantined%'")
        assert failed["id"].startswith(found["slot"])
        assert json.loads((run.path / "summary.json").read_text())["quarantined"] == [found["slot"]]
        run.check_books()

"""SIGKILL of asynchronous runs: every slot that was in flight is done again, whatever its length, and none twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_at import Cut, hang
from tests.faults.killed_runs import KILLED, Run, check_nothing_is_lost, kill_at_random, last_words

pytestmark = [pytest.mark.integration, pytest.mark.fault]

ASYNC = ("max_staleness=2", "rollout.max_delay_s=0.05")
STATES = {
    "mid-generation": Cut(target="actors.engines.torch_engine:TorchEngine.step", call=16),
    "payload stored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.generated", call=6),
    "scored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.scored", call=6),
    "published, not committed": Cut(target="buffers.host:BufferHost.commit", call=4),
}


@pytest.mark.parametrize("policy", ["wait", "drop"])
@pytest.mark.parametrize("state", STATES)
def test_slots_in_flight_at_the_kill_are_done_again(tmp_path: Path, state: str, policy: str):
    run = Run(tmp_path, (*ASYNC, "updates=10", f"buffer.staleness_policy={policy}"))
    assert run.play(cut=STATES[state]) == KILLED, run.log
    at_the_kill = last_words(run)
    assert run.resume() == 0, run.log
    check_nothing_is_lost(run, at_the_kill)
    assert run.summary["staleness"]["max"] <= 2


def test_no_payload_outruns_the_admission_of_its_slot(tmp_path: Path):
    # The ledger's disk hangs while everything else goes on; what is stored meanwhile must not be stored again.
    run = Run(tmp_path, ASYNC)
    stuck = Cut(target="buffers.files:OsFiles.write", about="/events-", call=3, half=hang)
    assert run.play(cut=stuck) == KILLED, run.log
    assert run.resume() == 0, run.log
    run.check_books()


def test_kills_at_random_instants_lose_nothing_and_train_nothing_twice(tmp_path: Path):
    run = Run(tmp_path, ASYNC)
    kill_at_random(run, seed=7, times=4)
    at_the_kill = last_words(run)
    reached = run.sql("SELECT max(version) AS v FROM versions")[0]["v"]
    assert run.resume(f"updates={reached + 6}") == 0, run.log
    check_nothing_is_lost(run, at_the_kill)

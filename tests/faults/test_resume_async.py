"""SIGKILL of asynchronous runs: every slot that was in flight is done again, whatever its length, and none twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kill_at import Cut, hang
from tests.faults.killed_runs import DEADLINE_S, KILLED, ROOT, TINY, Run

pytestmark = [pytest.mark.integration, pytest.mark.fault]

ASYNC = ("max_staleness=2", "rollout.max_delay_s=0.05")
LAST_WORDS = """
SELECT slot, last.event AS event, last.reason AS reason FROM (
    SELECT concat_ws(':', source, epoch, task, sample) AS slot,
        arg_max({event: event::VARCHAR, reason: reason}, seq) AS last FROM events GROUP BY slot)
"""

STATES = {
    "mid-generation": Cut(target="actors.engines.torch_engine:TorchEngine.step", call=16),
    "payload stored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.generated", call=6),
    "scored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.scored", call=6),
    "published, not committed": Cut(target="buffers.host:BufferHost.commit", call=4),
}


def last_words(run: Run) -> dict[str, tuple[str, str]]:
    """Return the last event and its reason of every slot."""
    return {row["slot"]: (row["event"], row["reason"]) for row in run.sql(LAST_WORDS)}


def check_nothing_is_lost(run: Run, at_the_kill: dict[str, tuple[str, str]]) -> None:
    """Slots that had no end when the run was killed are trained; the only end beside that is a stated one."""
    run.check_books()
    now = last_words(run)
    in_flight = {slot for slot, (event, _) in at_the_kill.items() if event not in ("trained", "dropped", "failed")}
    assert in_flight, "nothing was in flight: the test proved nothing"
    assert {slot: now[slot] for slot in in_flight if now[slot][0] != "trained"} == {}
    assert {reason for event, reason in now.values() if event != "trained"} <= {"run_ended"}


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
    run, rng = Run(tmp_path, ASYNC), random.Random(7)
    for attempt in range(4):
        process = launch_process(run, "updates=100000", *(["resume=true"] if attempt else []))
        wait_for_training(run, process, of_lineage=attempt)
        time.sleep(2 * rng.random())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)
    at_the_kill = last_words(run)
    reached = run.sql("SELECT max(version) AS v FROM versions")[0]["v"]
    assert run.resume(f"updates={reached + 6}") == 0, run.log
    check_nothing_is_lost(run, at_the_kill)


def launch_process(run: Run, *words: str) -> subprocess.Popen[bytes]:
    """Start `python launch.py run` as a user does, in a process group of its own."""
    command = [sys.executable, "launch.py", "run", *TINY, f"runs_folder={run.folder}", *run.words, *words]
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def wait_for_training(run: Run, process: Any, of_lineage: int) -> None:
    ends = time.monotonic() + DEADLINE_S
    trained = f"SELECT count(*) AS n FROM events WHERE event = 'trained' AND lineage = {of_lineage}"
    while not (run.path / "ledger").exists() or not run.sql(trained)[0]["n"]:
        assert process.poll() is None and time.monotonic() < ends, run.log[-3000:]
        time.sleep(0.1)

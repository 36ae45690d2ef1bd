"""A live run on Ray: members are killed mid-work, pools scale, commands are obeyed, and the run goes on.

One run is disturbed by every test in turn, and then stopped, resumed and interrupted; at each end its
books must balance and no slot may be trained twice.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from buffers.run_folder import run_key
from learners.models.weights import SHARED_FOLDER
from tests.faults.live_run import LiveRun, running

pytestmark = [pytest.mark.integration, pytest.mark.fault]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    with running(tmp_path_factory.mktemp("live")) as live:
        yield live


def test_a_worker_killed_mid_rollout_is_replaced_and_its_slots_are_generated_again(run: LiveRun):
    name, pid = next(iter(run.pids("rollout").items()))
    os.kill(pid, signal.SIGKILL)
    run.progress()
    lost = run.sql("SELECT count(*) AS n FROM events WHERE event = 'dropped' AND reason = 'worker_lost'")
    assert lost[0]["n"] > 0, "it held nothing: the test proved nothing"
    run.wait("its replacement", lambda: (now := run.pids("rollout")) and name not in now)
    run.wait("word of it", lambda: f"{name} replaced" in run.log)


def test_a_reward_server_killed_mid_call_is_replaced_and_fails_nothing(run: LiveRun):
    name, pid = next(iter(run.pids("reward.correct").items()))
    os.kill(pid, signal.SIGKILL)
    run.progress()
    run.wait("its replacement", lambda: (now := run.pids("reward.correct")) and name not in now)
    run.progress()
    assert run.sql("SELECT count(*) AS n FROM events WHERE event = 'failed'")[0]["n"] == 0


def test_pools_scale_while_the_run_goes_on(run: LiveRun):
    assert run.command("scale", "rollout=2") == {"rollout": {"before": 1, "after": 2}}
    run.progress()
    assert run.command("scale", "rollout=1") == {"rollout": {"before": 2, "after": 1}}
    run.progress()


def test_a_paused_learner_waits_until_it_is_resumed(run: LiveRun):
    run.command("pause")
    settled = run.wait("the pause", lambda: (a := run.trained) and time.sleep(3.0) is None and a == run.trained and a)
    time.sleep(2.0)
    assert run.trained == settled
    run.command("resume")
    run.progress()


def in_shared_memory(run: LiveRun) -> list[str]:
    return [file.name for file in SHARED_FOLDER.iterdir() if file.name.startswith(run_key(run.path))]


def test_stop_drains_checkpoints_and_can_be_resumed(run: LiveRun):
    run.command("stop")
    assert run.finish() == 0, run.log
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert [folder.name for folder in (run.path / "checkpoints").iterdir()] == [f"v{summary['policy_version']:08d}"]
    run.check_books()
    run.start("resume=true")
    run.progress()
    versions = run.sql("SELECT min(version) AS first FROM events WHERE event = 'trained' AND lineage = 1")
    assert versions[0]["first"] == summary["policy_version"]


def test_ctrl_c_writes_a_checkpoint(run: LiveRun):
    assert run.process is not None and in_shared_memory(run), "its weights"
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 0, run.log
    assert not in_shared_memory(run), "memory that no process has is lost until the machine starts again"
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert (run.path / "checkpoints" / f"v{summary['policy_version']:08d}").is_dir()
    run.check_books()

"""A live run on Ray: members are killed mid-work, pools scale, commands are obeyed, and the run goes on.

One run is disturbed by every test in turn, and then stopped, resumed and interrupted; at each end its
books must balance and no slot may be trained twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buffers.records.audit import audit
from buffers.records.query import query

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0

pytestmark = [pytest.mark.integration, pytest.mark.fault]


class LiveRun:
    """`launch.py run` as a user starts it, and `launch.py status` and its like as other processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "live"
        self._log = folder / "log.txt"
        self._words = [
            "configs/smoke.yaml", "name=live", f"runs_folder={folder}", "eval.tasks=0", "checkpoint.every=0",
            "cluster.heartbeat_s=0.2", "warm_start.updates=0", "logging.report=false", "rollout.message_samples=8",
            "rollout.max_delay_s=0.5",
            "rewards.components.correct.component={target: 'tests.faults.slow_reward:SlowLength'}",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "launch.py", "run", *self._words, *words]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def command(self, *words: str) -> Any:
        """Run `launch.py VERB RUN ... --json` and return what it prints."""
        verb, *rest = words
        done = subprocess.run(
            [sys.executable, "launch.py", verb, str(self.path), *rest, "--json"],
            cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """Return the first true answer of `condition`; fail with the run's log at the deadline."""
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends:
            if answer := condition():
                return answer
            assert self.process is not None and self.process.poll() is None, f"the run ended:\n{self.log}"
            time.sleep(0.2)
        raise AssertionError(f"{what} did not happen within {DEADLINE_S:g} s:\n{self.log}")

    def finish(self) -> int:
        """Wait for the process; return its exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    @property
    def log(self) -> str:
        return self._log.read_text()[-4000:]

    @property
    def trained(self) -> int:
        """Samples trained so far, from the ledger."""
        if not (self.path / "ledger").exists():
            return 0
        return int(self.sql("SELECT count(*) AS n FROM events WHERE event = 'trained'")[0]["n"])

    def sql(self, text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = query(self.path, text).to_pylist()
        return rows

    def progress(self) -> None:
        """Wait until 64 more samples are trained."""
        before = self.trained
        self.wait("training", lambda: self.trained >= before + 64)

    def check_books(self) -> None:
        books = audit(self.path)
        assert books.balanced, books.problems
        twice = self.sql(
            "SELECT source, epoch, task, sample, sum(CASE event WHEN 'trained' THEN 1 ELSE -1 END) AS n FROM events "
            "WHERE event IN ('trained', 'rolled_back') GROUP BY ALL HAVING n > 1"
        )
        assert twice == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    live = LiveRun(tmp_path_factory.mktemp("live"))
    live.start("updates=100000")
    try:
        live.wait("the first update", lambda: live.trained)
        yield live
    finally:
        if live.process is not None and live.process.poll() is None:
            live.process.kill()


def pids(run: LiveRun, pool: str) -> dict[str, int]:
    found: dict[str, int] = run.command("status")["pools"][pool]["pids"]
    return found


def test_a_worker_killed_mid_rollout_is_replaced_and_its_slots_are_generated_again(run: LiveRun):
    name, pid = next(iter(pids(run, "rollout").items()))
    os.kill(pid, signal.SIGKILL)
    run.progress()
    lost = run.sql("SELECT count(*) AS n FROM events WHERE event = 'dropped' AND reason = 'worker_lost'")
    assert lost[0]["n"] > 0, "it held nothing: the test proved nothing"
    run.wait("its replacement", lambda: (now := pids(run, "rollout")) and name not in now)
    run.wait("word of it", lambda: f"{name} replaced" in run.log)


def test_a_reward_server_killed_mid_call_is_replaced_and_fails_nothing(run: LiveRun):
    name, pid = next(iter(pids(run, "reward.correct").items()))
    os.kill(pid, signal.SIGKILL)
    run.progress()
    run.wait("its replacement", lambda: (now := pids(run, "reward.correct")) and name not in now)
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


def test_stop_drains_checkpoints_and_can_be_resumed(run: LiveRun):
    run.command("stop")
    assert run.finish() == 0, run.log
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert [folder.name for folder in (run.path / "checkpoints").iterdir()] == [f"v{summary['policy_version']:08d}"]
    run.check_books()
    run.start("updates=100000", "resume=true")
    run.progress()
    versions = run.sql("SELECT min(version) AS first FROM events WHERE event = 'trained' AND lineage = 1")
    assert versions[0]["first"] == summary["policy_version"]


def test_ctrl_c_writes_a_checkpoint(run: LiveRun):
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 0, run.log
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert (run.path / "checkpoints" / f"v{summary['policy_version']:08d}").is_dir()
    run.check_books()

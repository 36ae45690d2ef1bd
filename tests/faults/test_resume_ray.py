"""What no supervisor replaces dies on Ray: the buffer, a learner rank, the whole process tree. Then `resume=true`.

One run folder goes through all of it; at the end its books must balance.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.live_run import ROOT, LiveRun

pytestmark = [pytest.mark.integration, pytest.mark.fault]

WORDS = (
    "updates=100000", "checkpoint.every=4", "batch.prompts_per_update=4", "rollout.max_delay_s=0",
    "rewards.components.correct.component={target: length_penalty, target_tokens: 2}", "buffer.commit_interval_s=0.3",
)  # fmt: skip
KEEPER = """
from actors import ray_adapter
from configs.schema import ClusterConfig
print(ray_adapter.connect(ClusterConfig(), "keeper"), flush=True)
input()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster that outlives the drivers that join it; its address."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KEEPER], cwd=ROOT, **pipes) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        yield keeper.stdout.readline().strip()
        keeper.stdin.write("\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cluster: str) -> Iterator[LiveRun]:
    live = LiveRun(tmp_path_factory.mktemp("live"), *WORDS)
    live.start(f"cluster.address={cluster}")
    try:
        live.wait("the first update", lambda: live.trained)
        yield live
    finally:
        if live.process is not None and live.process.poll() is None:
            live.process.kill()


def dies(run: LiveRun, pool: str) -> None:
    """Kill the member of a pool once there is a checkpoint after the last resume; the run must say how to go on."""
    run.progress()
    (pid,) = run.pids(pool).values()
    os.kill(pid, signal.SIGKILL)
    assert run.finish() == 1, run.log
    (last,) = [line for line in run.log.splitlines()[-5:] if line.startswith("failed: ")]
    assert f"{pool}-0" in last and last.endswith("resume=true goes on from the last checkpoint"), last


@pytest.mark.parametrize("pool", ["buffer", "learner"])
def test_a_run_that_loses_its_buffer_or_its_learner_says_so_and_can_be_resumed(
    run: LiveRun, cluster: str, pool: str
):
    dies(run, pool)
    run.start(f"cluster.address={cluster}", "resume=true")
    run.progress()


def test_an_orphan_of_a_killed_run_is_fenced_off_by_the_epoch_of_its_successor(run: LiveRun):
    (orphan,) = run.pids("buffer").values()
    os.kill(orphan, signal.SIGSTOP)  # it lives on, with rows that it has not written yet
    assert run.process is not None
    run.process.kill()
    assert run.finish() == -signal.SIGKILL
    run.start("cluster.address=local", "resume=true")
    before = epochs(run)
    run.progress()
    os.kill(orphan, signal.SIGCONT)
    run.wait("the end of the orphan", lambda: not is_alive(orphan))
    run.progress()
    assert {epoch: n for epoch, n in epochs(run).items() if epoch in before} == before, "rows of a fenced epoch count"
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 0, run.log
    run.check_books()


def epochs(run: LiveRun) -> dict[int, int]:
    """Return how many events each epoch wrote that count."""
    return {r["run_epoch"]: r["n"] for r in run.sql("SELECT run_epoch, count(*) AS n FROM events GROUP BY 1")}


def is_alive(pid: int) -> bool:
    """Return whether a process runs or sleeps; a dead one that nobody has waited for does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"

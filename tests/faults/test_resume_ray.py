"""What no supervisor replaces dies on Ray: the buffer, a learner rank, the whole process tree. Then `resume=true`.

One run folder goes through all of it; at the end its books must balance.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.live_run import ROOT, LiveRun, running

pytestmark = [pytest.mark.integration, pytest.mark.fault]

WORDS = (
    "checkpoint.every=4", "batch.prompts_per_update=4", "rollout.max_delay_s=0",
    "rewards.components.correct.component={target: length_penalty, target_tokens: 2}", "buffer.commit_interval_s=0.3",
)  # fmt: skip
KEEPER = """
from actors import ray_adapter
from configs.cluster import ClusterConfig
print(ray_adapter.connect(ClusterConfig(), "keeper"), flush=True)
input()
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster that outlives the drivers that join it."""

    keeper: int
    address: str

    def signal(self, number: int) -> None:
        """Send a signal to the processes that would end the actors of a dead driver."""
        for tasks in Path(f"/proc/{self.keeper}/task").glob("*/children"):
            for child in tasks.read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() in ("gcs_server", "raylet"):
                    os.kill(int(child), number)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # Actors end by themselves when the GCS has been silent for a minute; on a busy machine a resume takes longer.
    patient = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
    with subprocess.Popen([sys.executable, "-c", KEEPER], cwd=ROOT, env=patient, **pipes) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        yield Cluster(keeper.pid, keeper.stdout.readline().strip())
        keeper.stdin.write("\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[LiveRun]:
    with running(tmp_path_factory.mktemp("live"), *WORDS, first=(f"cluster.address={cluster.address}",)) as live:
        yield live


def dies(run: LiveRun, pool: str) -> None:
    """Kill the member of a pool once there is a checkpoint after the last resume; the run must say how to go on."""
    run.progress()
    (pid,) = run.pids(pool).values()
    os.kill(pid, signal.SIGKILL)
    assert run.finish() == 1, run.log
    (last,) = [line for line in run.log.splitlines()[-5:] if line.startswith("failed: ")]
    # Its handle knows its name; whoever waits for an argument of it is told the pool alone.
    assert last.startswith((f"failed: {pool}-0 ", f"failed: {pool} is gone with what ")), last
    assert last.endswith("resume=true goes on from the last checkpoint"), last


@pytest.mark.parametrize("pool", ["buffer", "learner"])
def test_a_run_that_loses_its_buffer_or_its_learner_says_so_and_can_be_resumed(
    run: LiveRun, cluster: Cluster, pool: str
):
    dies(run, pool)
    run.start(f"cluster.address={cluster.address}", "resume=true")
    run.progress()


def test_an_orphan_of_a_killed_run_is_fenced_off_by_the_epoch_of_its_successor(run: LiveRun, cluster: Cluster):
    (orphan,) = run.pids("buffer").values()
    os.kill(orphan, signal.SIGSTOP)
    cluster.signal(signal.SIGSTOP)  # it lives on, and so do the workers and reward servers that it calls
    assert run.process is not None
    run.process.kill()
    assert run.finish() == -signal.SIGKILL
    try:
        run.start("cluster.address=local", "resume=true")
        run.progress()
        before = epochs(run)
        os.kill(orphan, signal.SIGCONT)
        run.wait("a write of the orphan", lambda: late_bytes(run))
        run.progress()
    finally:
        cluster.signal(signal.SIGCONT)
    after = epochs(run)
    assert {epoch: after[epoch] for epoch in sorted(before)[:-1]} == {e: before[e] for e in sorted(before)[:-1]}
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 0, run.log
    run.check_books()


def epochs(run: LiveRun) -> dict[int, int]:
    """Return how many events of each epoch count."""
    return {r["run_epoch"]: r["n"] for r in run.sql("SELECT run_epoch, count(*) AS n FROM events GROUP BY 1")}


def late_bytes(run: LiveRun) -> int:
    """Return how many bytes segments grew by since the newest epoch fenced them off."""
    folders = [run.path / name for name in ("ledger", "trajectories")]
    fences = [json.loads(max(folder.glob("epoch-*.json")).read_text())["segments"] for folder in folders]
    late = 0
    for folder, fence in zip(folders, fences, strict=True):
        for key, size in fence.items():
            found = list(folder.glob(f"{key}.f*.seg"))
            assert found, f"{key} was merged, as at the end of a run:\n{run.log}"
            late += found[0].stat().st_size - size
    return late

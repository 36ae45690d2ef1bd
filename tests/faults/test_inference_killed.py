"""An inference actor is killed while workers wait for it: the run ends with the weights of a synchronous one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import launch
from actors import ray_adapter
from buffers.records.query import query
from tests.integration.played_runs import differences, play

CARTPOLE = Path(launch.__file__).parent / "configs" / "cartpole.yaml"
SMALL = (
    "environment.lanes=12", "environment.fragments_per_update=12", "rollout.slots=16", "checkpoint.every=0",
    "updates=40",
)  # fmt: skip
KILLS = 2


async def kill_inference(path: Path) -> None:
    """SIGKILL the inference actor, after a few updates each time, and see it replaced."""
    from_update = 3
    for restarts in range(KILLS):
        while not (path / "ledger").exists() or await asyncio.to_thread(trained, path) < from_update:
            await asyncio.sleep(0.05)
        supervisor = ray_adapter.find("supervisor")
        pool = (await supervisor.call("status", deadline_s=30, awaiting="status"))["pools"]["inference"]
        (pid,) = pool["pids"].values()
        os.kill(pid, signal.SIGKILL)
        while pool["restarts"] == restarts or not pool["members"]:
            await asyncio.sleep(0.1)
            pool = (await supervisor.call("status", deadline_s=30, awaiting="status"))["pools"]["inference"]
        from_update = await asyncio.to_thread(trained, path) + 3


def trained(path: Path) -> int:
    return int(query(path, "SELECT count(*) AS n FROM versions").to_pylist()[0]["n"])


@pytest.mark.integration
@pytest.mark.fault
@pytest.mark.timeout(280)
def test_a_killed_inference_actor_changes_nothing(tmp_path: Path) -> None:
    wanted = play(tmp_path, "sync", "mode=sync", *SMALL, preset=CARTPOLE)
    words = (
        "rollout.inference.actors=1", "rollout.workers=2", "environment.halves=2", "cluster.address=null",
        "cluster.heartbeat_s=0.2", "rollout.max_delay_s=0.2",
    )  # fmt: skip
    found = play(tmp_path, "killed", *SMALL, *words, preset=CARTPOLE, disturb=kill_inference)
    assert differences(wanted, found) == []
    lost = query(tmp_path / "killed", "SELECT count(*) AS n FROM events WHERE reason = 'worker_lost'").to_pylist()
    assert lost[0]["n"] == 0, "workers died too: their lanes began anew, and the comparison proved something else"

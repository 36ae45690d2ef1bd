"""Any member of an online-reward run is killed while it works: the run ends, its books balance, it replays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

import launch
from actors import ray_adapter
from buffers.records.query import query
from tests.integration.played_runs import play

PRESET = Path(launch.__file__).parent / "configs" / "minigrid_oni.yaml"
WORDS = (
    "environment.backend={target: gymnasium, id: MiniGrid-DoorKey-5x5-v0, keys: [image]}", "environment.lanes=16",
    "environment.fragments_per_update=16", "updates=100000", "max_staleness=2", "cluster.address=null",
    "cluster.heartbeat_s=0.2", "rollout.workers=2", "rollout.max_delay_s=0.1",
)  # fmt: skip
POOLS = ("rollout", "annotator", "intrinsic_learner", "reward.intrinsic")


async def kill_one_of_each(path: Path) -> None:
    """SIGKILL a member of every pool in turn, each after further updates; see it replaced; then stop the run."""
    updates = 3
    for pool in POOLS:
        while await asyncio.to_thread(trained, path) < updates:
            await asyncio.sleep(0.1)
        supervisor = ray_adapter.find("supervisor")
        before = (await supervisor.call("status", deadline_s=30, awaiting="status"))["pools"][pool]
        name, pid = next(iter(before["pids"].items()))
        os.kill(pid, signal.SIGKILL)
        while name in (await supervisor.call("status", deadline_s=30, awaiting="status"))["pools"][pool]["members"]:
            await asyncio.sleep(0.1)
        updates = await asyncio.to_thread(trained, path) + 3
    while await asyncio.to_thread(trained, path) < updates:
        await asyncio.sleep(0.1)
    await ray_adapter.find("supervisor").call("request", "stop", deadline_s=30, awaiting="stop")


def trained(path: Path) -> int:
    if not (path / "ledger").exists():
        return 0
    return int(query(path, "SELECT count(*) AS n FROM versions").to_pylist()[0]["n"])


@pytest.mark.fault
@pytest.mark.timeout(280)
def test_one_member_of_every_pool_is_killed(tmp_path: Path) -> None:
    play(tmp_path, "killed", *WORDS, preset=PRESET, disturb=kill_one_of_each, ends="stopped")
    run = tmp_path / "killed"
    lost = query(run, "SELECT count(*) AS n FROM events WHERE reason = 'worker_lost'").to_pylist()[0]["n"]
    assert lost > 0, "the killed worker held nothing: the test proved nothing"
    labels = json.loads((run / "summary.json").read_text())["intrinsic"]["labels"]
    assert labels > 0
    assert launch.main(["replay", str(run)]) == 0

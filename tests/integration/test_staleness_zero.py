"""Staleness 0 equals sync: the same weights bit for bit, whatever the timing.

A run is reduced to what timing must not change, see `played_runs`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.engines.base import Completion
from actors.engines.factory import torch_engine
from actors.engines.torch_engine import TorchEngine
from buffers.records.query import query
from tests.integration.played_runs import differences, play

LOST = "reason = 'worker_lost'"


class LateStamps(TorchEngine):
    """The planted fault: from the second version on, tokens claim a version that did not sample them."""

    async def step(self) -> list[Completion]:
        completions = await super().step()
        for completion in completions:
            completion.versions[completion.versions > 0] += 1
        return completions


@functools.wraps(torch_engine)
def late_stamps(**arguments: Any) -> TorchEngine:
    engine = torch_engine(**arguments)
    engine.__class__ = LateStamps
    return engine


@pytest.fixture(scope="module")
def sync(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    reference = play(tmp_path_factory.mktemp("sync"), "sync", "mode=sync")
    assert len({row["weights_sha256"] for row in reference["weights"]}) == 5, "the reference learns nothing"
    return reference


@pytest.mark.integration
@pytest.mark.parametrize("workers", [1, 3])
def test_async_at_staleness_zero_equals_sync_under_random_delays(tmp_path: Path, sync: Any, workers: int):
    run = play(tmp_path, "delayed", f"rollout.workers={workers}", "rollout.max_delay_s=0.1")
    assert differences(sync, run) == []


@pytest.mark.integration
def test_wrong_version_stamps_make_the_proof_fail(tmp_path: Path, sync: Any):
    run = play(tmp_path, "stamps", f"engine={__name__}:late_stamps")
    assert differences(sync, run) != []


@pytest.mark.integration
def test_async_on_ray_with_a_killed_worker_equals_sync(tmp_path: Path, sync: Any):
    killed: list[str] = []

    async def kill_a_busy_worker(path: Path) -> None:
        """SIGKILL workers, once the first version has been trained, until one of them held leases."""
        from actors import ray_adapter

        while not (path / "ledger").exists() or not await asyncio.to_thread(_count, path, "event = 'trained'"):
            await asyncio.sleep(0.05)
        supervisor = ray_adapter.find("supervisor")
        while not await asyncio.to_thread(_count, path, LOST):
            status = await supervisor.call("status", deadline_s=30, awaiting="status")
            name, pid = next(iter(status["pools"]["rollout"]["pids"].items()))
            if name not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(name)
            await asyncio.sleep(0.5)

    run = play(
        tmp_path, "killed", "cluster.address=null", "rollout.workers=3", "rollout.max_delay_s=1.0",
        "cluster.heartbeat_s=0.2", disturb=kill_a_busy_worker,
    )  # fmt: skip
    assert _count(tmp_path / "killed", LOST), f"killed {killed}, which held nothing: the test proved nothing"
    assert differences(sync, run) == []


def _count(path: Path, condition: str) -> int:
    return int(query(path, f"SELECT count(*) AS n FROM events WHERE {condition}").to_pylist()[0]["n"])

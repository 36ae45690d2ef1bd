"""Staleness 0 equals sync: the same weights bit for bit, whatever the timing.

Each run is reduced to what it must not change: for every version its hash, and for every trained slot
its tokens, log-probabilities and version stamps. Then two runs either agree, or the difference is named.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import launch
from actors.engines.base import Completion
from actors.engines.factory import torch_engine
from actors.engines.torch_engine import TorchEngine
from buffers.records.audit import audit
from buffers.records.query import query
from buffers.run_folder import RunFolder
from configs.load import load_config
from configs.schema import RunConfig

LOST = "reason = 'worker_lost'"
PRESET = Path(launch.__file__).parent / "configs" / "smoke.yaml"

TRAINED = """
SELECT e.version AS consumed, t.source, t.epoch, t.task, t.sample, tokens, logprobs, version_values, version_counts
FROM events e JOIN trajectories t USING (id) WHERE e.event = 'trained'
ORDER BY ALL
"""


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


class SilentView:
    """Remembers warnings only."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def phase(self, text: str) -> None: ...
    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...
    def update(self, *_: Any) -> None: ...
    def evaluation(self, update: int, accuracy: float) -> None: ...
    def summary(self, summary: Any) -> None: ...
    def close(self) -> None: ...

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def configure(folder: Path, name: str, *words: str) -> RunConfig:
    common = [
        f"name={name}", f"runs_folder={folder}", "updates=4", "max_staleness=0", "eval.tasks=0", "logging.report=false",
        "logging.tensorboard=false", "cluster.address=local",
    ]  # fmt: skip
    return load_config([PRESET], [*common, *words])


def play(folder: Path, name: str, *words: str, disturb: Any = None) -> dict[str, list[dict[str, Any]]]:
    """Run to the end, check the books, and return what timing must not change."""
    config = configure(folder, name, *words)
    path = folder / name
    with RunFolder.create(path) as run_folder:

        async def conduct() -> dict[str, Any]:
            disturbing = asyncio.create_task(disturb(path)) if disturb else None
            summary = await launch.conduct(config, run_folder, SilentView(), 0.0)
            if disturbing is not None:
                await disturbing
            return summary

        assert asyncio.run(conduct())["status"] == "finished"
    books = audit(path)
    assert books.balanced, books.problems
    hashes = query(path, "SELECT version, weights_sha256 FROM versions ORDER BY version").to_pylist()
    return {"weights": hashes, "trained": query(path, TRAINED).to_pylist()}


def differences(one: dict[str, Sequence[Any]], other: dict[str, Sequence[Any]]) -> list[str]:
    """Name what two runs do not share."""
    found = []
    for key, rows in one.items():
        if len(rows) != len(other[key]):
            found.append(f"{key}: {len(rows)} rows against {len(other[key])}")
        found += [f"{key}: {a} against {b}" for a, b in zip(rows, other[key], strict=False) if a != b]
    return found


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

"""An environment never returns from a step: its worker is replaced, the run says why and goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import launch
from actors import ray_adapter
from buffers.records.query import query
from tests.integration.played_runs import play

PRESET = Path(launch.__file__).parent / "configs" / "cartpole.yaml"
DEADLINE_S = 2.0


def words(folder: Path) -> tuple[str, ...]:
    backend = f"{{target: gymnasium, id: 'tests.faults.hanging_environment:Hanging-v0', options: {{folder: {folder}}}}}"
    return (
        f"environment.backend={backend}", f"environment.step_deadline_s={DEADLINE_S}", "environment.lanes=8",
        "environment.fragments_per_update=8", "rollout.slots=16", "rollout.workers=2", "updates=100000",
        "max_staleness=2", "cluster.address=null", "cluster.heartbeat_s=0.2", "checkpoint.every=0",
    )  # fmt: skip


async def status() -> Any:
    return await ray_adapter.find("supervisor").call("status", deadline_s=30, awaiting="status")


def trained(path: Path) -> int:
    if not (path / "ledger").exists():
        return 0
    return int(query(path, "SELECT count(*) AS n FROM versions").to_pylist()[0]["n"])


@pytest.mark.integration
@pytest.mark.fault
@pytest.mark.timeout(280)
def test_a_hung_step_costs_its_worker_and_nothing_else(tmp_path: Path) -> None:
    folder, said = tmp_path / "hangs", []
    folder.mkdir()

    async def hang_in_every_way(path: Path) -> None:
        for restarts, how in enumerate(("sleep", "spin", "reset"), start=1):
            goal = await asyncio.to_thread(trained, path) + 3
            while await asyncio.to_thread(trained, path) < goal:
                await asyncio.sleep(0.1)
            (folder / how).touch()
            while (await status())["pools"]["rollout"]["restarts"] < restarts:
                await asyncio.sleep(0.1)
        goal = await asyncio.to_thread(trained, path) + 3
        while await asyncio.to_thread(trained, path) < goal:
            await asyncio.sleep(0.1)
        said.extend(text for _, text in (await status())["events"])
        await ray_adapter.find("supervisor").call("request", "stop", deadline_s=30, awaiting="stop")

    play(tmp_path, "hung", *words(folder), preset=PRESET, disturb=hang_in_every_way, ends="stopped")
    removals = [text for text in said if " removed: " in text]
    assert len(removals) == 3
    for text in removals:
        assert "Hanging-v0 hangs at place" in text and f"environment.step_deadline_s={DEADLINE_S:g}" in text
    run = tmp_path / "hung"
    lost = query(run, "SELECT count(*) AS n FROM events WHERE reason = 'worker_lost'").to_pylist()[0]["n"]
    assert lost > 0, "the hung workers held nothing: the test proved nothing"

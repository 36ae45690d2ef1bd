"""No batch comes: it is said what is awaited and who has it, and silent members lose it to the others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stream_scene import Scene

from buffers.relief import relieve
from buffers.transport import HandleSet, LocalHandle


class Silent:
    """Answers heartbeats and nothing else."""

    async def score(self) -> None:
        await asyncio.Event().wait()


def intake_of(scene: Scene, heard: dict[str, float]) -> Any:
    """What `relieve` needs of an intake, over a real buffer."""
    return SimpleNamespace(heard=heard, suspects={}, take_back=scene.buffer.lose)


async def test_silent_workers_lose_their_slots_and_the_one_that_holds_most_is_replaced(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "run", groups=4, members=2, max_staleness=0)
    held = {name: scene.buffer.lease(name, count) for name, count in (("few", 1), ("most", 3), ("busy", 2))}
    intake = intake_of(scene, {"few": 10.0, "most": 20.0, "busy": 95.0})
    said = relieve(scene.buffer, intake, {"rollout": HandleSet("rollout")}, quiet_s=50.0, now=100.0)
    assert "version 0: 0 of 4 groups complete; 6 samples missing" in said
    assert f"most holds 3 samples ({', '.join(str(unit.slot) for unit in held['most'])})" in said
    assert "few holds 1 samples" in said and "for 90 s" in said and "busy" not in said
    assert list(intake.suspects) == ["most"] and said.endswith("replaced: most")
    assert scene.buffer.leases().keys() == {"busy"}
    assert {unit.slot for unit in held["most"]} <= set(scene.buffer._suspects._suspects), (
        "it may have been a slot's fault"
    )
    assert held["few"][0].slot not in scene.buffer._suspects
    scene.finish(held["busy"])
    scene.close()


async def test_a_reward_server_that_answers_nothing_is_replaced(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "run", groups=1, members=1)
    servers = HandleSet("reward.judge")
    servers.attach(LocalHandle("judge-0", Silent()))
    calls = [asyncio.create_task(s.call("score", deadline_s=60, awaiting="scores")) for s in servers for _ in range(2)]
    await asyncio.sleep(0)
    intake, now = intake_of(scene, {}), asyncio.get_running_loop().time()
    assert relieve(scene.buffer, intake, {servers.pool: servers}, 5.0, now + 4.0).endswith("nobody is silent")
    said = relieve(scene.buffer, intake, {servers.pool: servers}, 5.0, now + 6.0)
    assert "judge-0 works on 2 calls and answered none for 6 s" in said and list(intake.suspects) == ["judge-0"]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    scene.close()

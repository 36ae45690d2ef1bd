"""The supervisor over members in this process: pools grow and shrink, farewells lose nothing, the dead come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.decisions import DecisionLog
from actors.local_adapter import LocalMember
from actors.member import MemberSpec
from actors.supervisor import Supervisor
from buffers.load import Report
from buffers.transport import Handle, HandleSet
from configs.cluster import ClusterConfig
from configs.errors import DataError, DeadlineExceeded, MemberLost, NoRoom, RunError
from configs.registry import Deferred
from configs.scaling import ScalingConfig

SETTINGS = ClusterConfig(address="local", heartbeat_s=0.01, heartbeat_deadline_s=20.0, restart_refill_s=1e6)


def load(wait_s: float, busy: float) -> Report:
    return Report(waits_s=(wait_s,), busy_s=busy, room_s=1.0)


class Worker:
    """Works until it is let go."""

    made: ClassVar[list[Worker]] = []

    def __init__(self) -> None:
        self.load = load(0.0, 0.5)
        self.answers, self.drained, self.gate = True, 0, asyncio.Event()
        Worker.made.append(self)

    def ping(self) -> dict[str, Any]:
        if not self.answers:
            raise RunError("it says nothing sensible")
        return {"load": {"worker": self.load}}

    async def work(self) -> str:
        await self.gate.wait()
        return "done"

    def drain(self) -> None:
        self.drained += 1


class Boss:
    """Gives work to the pool `worker`."""

    def __init__(self) -> None:
        self.workers, self.faults, self.suspects = HandleSet("worker"), dict[str, str](), dict[str, str]()

    def ping(self) -> dict[str, Any]:
        return {"suspects": self.suspects}

    def attach(self, pool: str, handle: Handle) -> None:
        self.workers.attach(handle)

    async def dismiss(self, pool: str, name: str, deadline_s: float) -> None:
        await self.workers.dismiss(name, deadline_s)

    def detach(self, pool: str, name: str, fault: str = "") -> None:
        self.faults[name] = fault
        self.workers.detach(name)


BOSS: list[Boss] = []


def build_boss() -> Boss:
    BOSS.append(Boss())
    return BOSS[-1]


class Scene:
    """A supervisor, one boss, and its workers."""

    def __init__(
        self,
        settings: ClusterConfig = SETTINGS,
        log: DecisionLog | None = None,
        spawn: Any = LocalMember,
        **spec: Any,
    ) -> None:
        Worker.made.clear()
        self.supervisor = Supervisor(settings, spawn, decisions=log)
        self.spec = MemberSpec(
            pool="worker",
            factory=Deferred(f"{__name__}:Worker", ()),
            attached_to=("boss",),
            **{"max_restarts": 9} | spec,
        )

    async def begin(self, count: int) -> Boss:
        await self.supervisor.start(MemberSpec(pool="boss", factory=Deferred(f"{__name__}:build_boss", ())), 1)
        await self.supervisor.start(self.spec, count)
        return BOSS[-1]

    @property
    def pool(self) -> dict[str, Any]:
        return dict(self.supervisor.status()["pools"]["worker"])

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(30.0):
            while not condition():
                await asyncio.sleep(0.005)


async def test_a_pool_that_shrinks_lets_its_members_end_their_work() -> None:
    scene = Scene(drains=True)
    boss = await scene.begin(3)
    handles = {handle.name: handle for handle in boss.workers}
    working = [asyncio.create_task(h.call("work", deadline_s=30, awaiting="work")) for h in handles.values()]
    await asyncio.sleep(0)
    assert await scene.supervisor.scale("worker", 1) == {"before": 3, "after": 1}
    await scene.until(lambda: len(boss.workers) == 1)
    assert sorted(scene.pool["leaving"]) == ["worker-1", "worker-2"] and "worker-1" in boss.workers
    for worker in Worker.made:
        worker.gate.set()
    assert await asyncio.gather(*working) == ["done"] * 3
    await scene.until(lambda: not scene.pool["leaving"])
    assert [worker.drained for worker in Worker.made] == [0, 1, 1]
    assert boss.faults == {"worker-1": "", "worker-2": ""}, "a farewell is nobody's fault"
    assert scene.pool["restarts"] == 0
    await scene.supervisor.close()


async def test_a_farewell_has_a_deadline_and_a_death_meanwhile_is_not_replaced() -> None:
    scene = Scene(ClusterConfig(address="local", heartbeat_s=0.01, drain_deadline_s=0.05))
    boss = await scene.begin(2)
    stuck = asyncio.create_task(next(reversed(list(boss.workers))).call("work", deadline_s=30, awaiting="work"))
    await asyncio.sleep(0)
    await scene.supervisor.scale("worker", 1)
    await scene.until(lambda: not scene.pool["leaving"])
    assert any("did not dismiss" in text for _, text in scene.supervisor.status()["events"])
    stuck.cancel()
    assert len(scene.pool["members"]) == 1 and scene.pool["restarts"] == 0
    await scene.supervisor.close()


async def test_the_dead_are_replaced_with_their_fault_told_until_the_budget_ends() -> None:
    scene = Scene(max_restarts=2)
    boss = await scene.begin(1)
    for death in range(3):
        await scene.until(lambda: len(boss.workers) == 1)
        Worker.made[-1].answers = False
        await scene.until(lambda n=death: len(boss.faults) == n + 1)
    assert all("says nothing sensible" in fault for fault in boss.faults.values())
    with pytest.raises(RunError, match=r"no restarts left \(2 used\)"):
        scene.supervisor.take_news()
    await scene.supervisor.close()


class Cluster:
    """Starts members while there is room."""

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, 0

    def __call__(self, spec: MemberSpec, name: str) -> LocalMember:
        self.asked += 1
        if self.asked > self.room and spec.pool == "worker":
            raise NoRoom("the cluster has no room: CPU")
        return LocalMember(spec, name)


async def test_a_member_that_finds_no_room_waits_for_it_and_uses_no_restart_up() -> None:
    cluster = Cluster(room=3)  # the boss and two workers
    scene = Scene(max_restarts=1, spawn=cluster)
    boss = await scene.begin(2)
    Worker.made[0].answers = False
    await scene.until(lambda: cluster.asked > 9)
    assert len(boss.workers) == 1 and (scene.pool["wanted"], scene.pool["restarts"]) == (2, 0)
    told = [text for _, text in scene.supervisor.status()["events"] if "no room" in text]
    assert len(told) == 1 and told[0].startswith("worker-0 is not replaced yet"), "said once"
    cluster.room = 1000
    await scene.until(lambda: len(boss.workers) == 2)
    assert scene.pool["restarts"] == 1
    assert scene.supervisor.take_news()[1], "nothing was fatal"
    await scene.supervisor.close()


async def test_a_suspect_is_replaced_once_however_often_it_is_named() -> None:
    scene = Scene()
    boss = await scene.begin(2)
    boss.suspects = {"worker-0": "it brings nothing", "nobody": "?"}
    await scene.until(lambda: "worker-2" in boss.workers)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert scene.pool["members"] == ["worker-1", "worker-2"] and scene.pool["restarts"] == 1
    await scene.supervisor.close()


async def test_one_that_hangs_does_not_keep_the_others_from_being_replaced() -> None:
    scene = Scene()
    boss = await scene.begin(2)
    hanging = scene.supervisor.members("worker")[0]
    hanging.ping = lambda deadline_s: asyncio.Event().wait()  # type: ignore[attr-defined]
    await asyncio.sleep(0.03)
    Worker.made[1].answers = False
    await scene.until(lambda: "worker-2" in boss.workers)
    await scene.supervisor.close()


@pytest.mark.parametrize(
    ("settings", "spec", "count", "rule"),
    [
        (ScalingConfig(min=2, max=3), {}, 1, "2 to 3"),
        (ScalingConfig(min=2, max=3), {}, 4, "2 to 3"),
        (ScalingConfig(), {}, 0, "1 to any"),
        (ScalingConfig(), {"max_members": 2}, 3, "at most 2"),
        (ScalingConfig(), {"attached_to": ()}, 3, "fixed"),
    ],
)
async def test_sizes_that_a_pool_cannot_have_are_refused(
    settings: ScalingConfig, spec: dict[str, Any], count: int, rule: str
) -> None:
    scene = Scene()
    scene.spec = MemberSpec(**{**vars(scene.spec), "scaling": settings, **spec})
    await scene.begin(2)
    with pytest.raises(DataError, match=rf"'worker' cannot be scaled to {count}; .*{rule}"):
        await scene.supervisor.scale("worker", count)
    with pytest.raises(DataError, match="no pool 'workers'; pools of this run: boss, worker"):
        await scene.supervisor.scale("workers", 2)
    await scene.supervisor.close()


async def test_a_pool_scales_by_itself_and_says_why(tmp_path: Path) -> None:
    bounds = ScalingConfig(min=1, max=2, up_cooldown_s=0.0, down_cooldown_s=0.0)
    scene = Scene(log=DecisionLog(tmp_path), scaling=bounds)
    boss = await scene.begin(1)
    Worker.made[0].load = load(9.0, 1.0)
    await scene.until(lambda: len(boss.workers) == 2)
    for worker in Worker.made:
        worker.load = load(0.0, 0.0)
    await scene.until(lambda: len(boss.workers) == 1)
    lines = [json.loads(line) for line in (tmp_path / "scaling.jsonl").read_text().splitlines()]
    assert [(line["pool"], line["before"], line["after"]) for line in lines] == [("worker", 1, 2), ("worker", 2, 1)]
    assert lines[0]["why"] == "work waited 9.00 s, target 1 s" and lines[0]["queue_s"] == 9.0
    assert scene.pool["decision"]["why"] == lines[1]["why"]
    await scene.supervisor.close()


class Mortal(Worker):
    """Dies while it is built, the first times."""

    deaths: ClassVar[int] = 0

    def __init__(self) -> None:
        if Mortal.deaths:
            Mortal.deaths -= 1
            raise MemberLost("its process was killed")
        super().__init__()


async def test_a_member_that_is_killed_while_its_pool_starts_is_replaced() -> None:
    scene, Mortal.deaths = Scene(), 2
    scene.spec = replace(scene.spec, factory=Deferred(f"{__name__}:Mortal", ()))
    boss = await scene.begin(3)
    assert len(scene.pool["members"]) == 3 == len(list(boss.workers)) and scene.pool["restarts"] == 2
    await scene.supervisor.close()


async def test_one_without_restarts_ends_the_start_at_once() -> None:
    scene, Mortal.deaths = Scene(max_restarts=0), 1
    scene.spec = replace(scene.spec, factory=Deferred(f"{__name__}:Mortal", ()))
    with pytest.raises(MemberLost, match="was killed"):
        await scene.begin(1)
    await scene.supervisor.close()


async def test_a_pool_whose_members_always_die_says_so_at_the_deadline() -> None:
    settings = replace(SETTINGS, start_deadline_s=0.5)
    scene, Mortal.deaths = Scene(settings), 10**6
    scene.spec = replace(scene.spec, factory=Deferred(f"{__name__}:Mortal", ()))
    with pytest.raises(DeadlineExceeded, match=r"0 of 1 members started; .*did not start: its process was killed"):
        await scene.begin(1)
    await scene.supervisor.close()

"""A cluster of two nodes: placements land where they should, impossible ones are refused, and a run lives on both.

The nodes are Ray's own `Cluster`: two raylets and two object stores on one host.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import launch
from actors import ray_adapter
from actors.member import MemberSpec
from actors.ray_placement import PlacingSpawner
from configs.cluster import ClusterConfig
from configs.errors import DataError, DeadlineExceeded
from configs.placement import PlacementConfig
from configs.registry import Deferred
from tests.faults.live_run import running

pytestmark = pytest.mark.integration
START_S = 120.0


class Place:
    """Says where it runs."""

    def node(self) -> int:
        return os.getppid()  # the raylet

    def ping(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    size = {"object_store_memory": 128 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1, **size})
    try:
        cluster.add_node(num_cpus=4, resources={"fast": 2}, object_store_memory=128 << 20)
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.fixture
def joined(address: str) -> Iterator[None]:
    ray_adapter.connect(ClusterConfig(address=address), "headrace-test")
    yield
    ray_adapter.leave()


async def start(spawner: PlacingSpawner, pool: str, count: int, *, deadline_s: float = START_S, first: int = 0, **rest):
    """Start members of a pool, by default all that it starts with."""
    factory = Deferred("tests.integration.test_two_nodes:Place", ())
    spec = MemberSpec(pool=pool, factory=factory, **{"num_cpus": 1, "together": count, **rest})
    members = [spawner(spec, f"{pool}-{first + k}") for k in range(count)]
    for member in members:
        await member.build(deadline_s)
    return members


async def nodes_of(members) -> list[int]:
    return [await member.call("node", deadline_s=60.0, awaiting="its node") for member in members]


def by(strategy: str, **resources: float) -> PlacementConfig:
    return PlacementConfig(strategy=strategy, resources=resources)


@pytest.mark.usefixtures("joined")
async def test_members_land_where_their_placement_says():
    spawner = PlacingSpawner(autoscales=False)
    spread = await start(spawner, "spread", 2, placement=by("spread"))
    assert len(set(await nodes_of(spread))) == 2
    packed = await start(spawner, "packed", 2, placement=by("strict_pack"))
    assert len(set(await nodes_of(packed))) == 1
    halves = await start(spawner, "halves", 2, num_cpus=0, num_gpus=0.5)
    fast = await start(spawner, "fast", 1, num_cpus=0, placement=by("any", fast=2))
    assert len(set(await nodes_of([*halves, *fast]))) == 2, "the GPU is on one node, `fast` on the other"
    nothing = await start(spawner, "nothing", 2, num_cpus=0, placement=by("strict_spread"))
    assert len(set(await nodes_of(nothing))) == 2, "members that take nothing can be spread, too"
    for member in (*spread, *packed, *halves, *fast, *nothing):
        member.kill()


@pytest.mark.usefixtures("joined")
async def test_what_the_cluster_cannot_hold_is_refused_in_one_sentence_and_at_once():
    spawner = PlacingSpawner(autoscales=False)
    with pytest.raises(DataError, match=r"no room: GPU: big 1 x 2 = 2, there are 1: short of 1; add nodes"):
        await start(spawner, "big", 1, num_gpus=2)
    with pytest.raises(DataError, match=r"wide: 1 members of 5 CPU want nodes that hold a member whole; room for 0"):
        await start(spawner, "wide", 1, num_cpus=5)
    apart = {"together": 2, "num_cpus": 0.1, "placement": by("strict_spread")}
    own = await start(spawner, "own", 2, **apart)
    with pytest.raises(DataError, match=r"own: 3 members of 0\.1 CPU want nodes of their own; room for 2: short of 1"):
        await start(spawner, "own", 1, first=2, **apart)
    own[0].kill()
    again = await start(spawner, "own", 1, first=3, **apart)
    assert len(set(await nodes_of([own[1], *again]))) == 2, "the place of a member that ended is free"
    for member in (own[1], *again):
        member.kill()


@pytest.mark.usefixtures("joined")
async def test_a_member_that_waits_for_room_says_what_is_free_at_its_deadline():
    spawner = PlacingSpawner(autoscales=True)
    with pytest.raises(DeadlineExceeded, match=r"no its start within 3 s; free on the whole cluster: \S+ of 1 CPU, "):
        await start(spawner, "later", 1, deadline_s=3.0, placement=by("any", slow=1))


@pytest.fixture
def words(address: str) -> tuple[str, ...]:
    return f"cluster.address={address}", "rollout.workers=2", "rollout.placement.strategy=strict_spread"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("publish.backend=shared_memory",), "publish.backend is 'shared_memory'; it must reach all 2 nodes"),
        (("rollout.num_gpus=1",), "the cluster has no room: GPU: rollout 2 x 1 = 2, there are 1: short of 1"),
    ],
)
def test_a_run_that_cannot_be_placed_ends_at_once(
    words: tuple[str, ...], change: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    try:
        assert launch.main(["run", "configs/smoke.yaml", f"runs_folder={tmp_path}", *words, *change]) == 2
    finally:
        ray_adapter.leave()
    assert why in capsys.readouterr().err
    assert not (tmp_path / "smoke").exists(), "the corrected run may have the name"


def test_check_asks_the_cluster(words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    preset = ("check", "configs/smoke.yaml", f"runs_folder={tmp_path}")
    assert launch.main([*preset, *words]) == 0
    assert "8 CPU, 1 GPU on 2 node(s)" in capsys.readouterr().out
    assert launch.main([*preset, *words, "rollout.workers=3"]) == 2
    assert "rollout: 3 members of 1 CPU want nodes of their own; room for 2: short of 1" in capsys.readouterr().out


def test_a_run_lives_on_both_nodes(words: tuple[str, ...], tmp_path: Path):
    quick = ("rollout.max_delay_s=0", "rewards.components.correct.component={target: exact_match}")
    with running(tmp_path, "publish.backend=object_store", *words, *quick) as live:
        raylets = {psutil.Process(pid).ppid() for pid in live.pids("rollout").values()}
        assert len(raylets) == 2
        versions = "SELECT count(DISTINCT version) AS n FROM events WHERE event = 'trained'"
        live.wait("weights that crossed", lambda: live.sql(versions)[0]["n"] >= 3)
        assert live.process is not None
        live.process.send_signal(signal.SIGINT)
        assert live.finish() == 0, live.log
    live.check_books()

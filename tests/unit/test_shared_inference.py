"""Actions that another process computes are those that the worker would have computed itself."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from decision_tables import VECTOR, random_observations
from lane_scene import LANES, play, rollouts, rounds, settings

from actors.environments import build as build_lanes
from actors.inference import InferenceServer
from actors.lane_rollouts import lane_settings
from actors.policy_engine import PolicyEngine, build_engine
from actors.pools import pools
from actors.shared_policy import SharedPolicy
from actors.shared_rollouts import SharedLaneRollouts
from buffers.environment_spec import EnvironmentSpec
from buffers.transport import LocalHandle
from configs.errors import ConfigError, DeadlineExceeded, MemberLost, RunError
from configs.load import load_config
from learners.models.decision import build_policy
from learners.models.weights import Layout
from learners.publish.object_store import ObjectStorePublisher, ObjectStoreReceiver

SECTION = {"target": "mlp", "core": {"target": "gru", "size": 8}}
PATIENCE_S = 20.0


class Weights:
    """A publisher, and receivers of what it publishes."""

    def __init__(self, spec: EnvironmentSpec = VECTOR) -> None:
        self.network = build_policy(SECTION, spec, 7)
        self.layout = Layout.of(self.network.state_dict())
        self._publisher = ObjectStorePublisher(self.layout, epoch=1)

    def packet(self, version: int) -> Any:
        """Return weights that no other version has."""
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(version)))
        return self._publisher.publish(version, [self.network.state_dict()])

    def server(self) -> InferenceServer:
        engine = PolicyEngine(build_policy(SECTION, VECTOR, 7), VECTOR, slots=16)
        return InferenceServer(engine, ObjectStoreReceiver(self.layout))


def question(rows: int, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    state, noise = rng.normal(size=(rows, 8)).astype(np.float32), rng.random((rows, 1), np.float32)
    return random_observations(VECTOR, rng, rows), state, noise


def policy(*servers: InferenceServer, deadline_s: float = PATIENCE_S) -> tuple[SharedPolicy, list[LocalHandle]]:
    asking = SharedPolicy(build_policy(SECTION, VECTOR, 7), seat=0, deadline_s=deadline_s)
    handles = [LocalHandle(f"inference-{n}", server) for n, server in enumerate(servers)]
    for handle in handles:
        asking.members.attach(handle)
    return asking, handles


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


# The server


async def test_requests_that_wait_together_are_one_batch_and_get_what_they_would_get_alone() -> None:
    together, alone = Weights().server(), Weights().server()
    asked = [question(rows, seed=rows) for rows in (3, 5, 16, 1)]  # 25 rows: more than one call of the network holds
    answers = await asyncio.gather(*(together.act(*one, -1) for one in asked))
    told = together.ping()
    assert (told["version"], told["requests"], told["batches"]) == (-1, 4, 1)
    for one, (acted, version) in zip(asked, answers, strict=True):
        wanted, _ = await alone.act(*one, -1)
        assert version == -1
        for got, want in zip(acted, wanted, strict=True):
            np.testing.assert_array_equal(got, want)
    assert alone.ping()["batches"] == 4
    await asyncio.gather(together.close(), alone.close())


async def test_a_request_waits_for_its_version_and_is_stamped_with_the_one_that_acted() -> None:
    weights = Weights()
    server, asked = weights.server(), question(4)
    before, _ = await server.act(*asked, -1)
    waiting = asyncio.create_task(server.act(*asked, 2))
    server.receive(weights.packet(1))
    acted, version = await server.act(*asked, 1)
    assert version == 1 and not np.array_equal(acted[1], before[1])
    assert not waiting.done()
    server.receive(weights.packet(2))
    assert (await waiting)[1] == 2
    await server.close()


async def test_newer_answers_when_newer_weights_come_or_its_time_is_up() -> None:
    weights = Weights()
    server = weights.server()
    assert await server.newer(-1, wait_s=0.0) == -1
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(server.newer(-1, wait_s=1e9))
        await asyncio.sleep(0)
        server.receive(weights.packet(5))
        assert await waiting == 5
        assert await server.newer(3, wait_s=1e9) == 5
    await server.close()


async def test_whoever_waits_for_a_server_that_is_closed_is_told() -> None:
    server = Weights().server()
    waiting = asyncio.create_task(server.act(*question(1), 9))
    await asyncio.sleep(0)
    await server.close()
    with pytest.raises(MemberLost):
        await waiting


async def test_an_error_of_the_network_ends_the_server_and_its_heartbeat_says_so() -> None:
    server = Weights().server()
    observations, state, noise = question(2)
    waiting = asyncio.create_task(server.act({"position": observations["position"][:, :2]}, state, noise, -1))
    with pytest.raises(RunError, match="the inference loop stopped"):
        await until(lambda: server.ping() is None)
    waiting.cancel()
    with pytest.raises(RunError, match="the inference loop stopped"):
        await server.act(observations, state, noise, -1)


# The worker's side


async def test_a_lost_actor_is_replaced_and_versions_never_go_back() -> None:
    weights = Weights()
    first, second = weights.server(), weights.server()
    packets = [weights.packet(version) for version in (1, 2)]
    first.receive(packets[1])
    asking, (handle,) = policy(first)
    assert (await asking.act(*question(3)))[1] == 2
    handle.kill()
    waiting = asyncio.create_task(asking.act(*question(3)))
    await until(lambda: not len(asking.members))
    second.receive(packets[0])
    asking.members.attach(LocalHandle("inference-1", second))
    await until(lambda: second.ping()["version"] == 1)
    assert not waiting.done()
    second.receive(packets[1])
    assert (await waiting)[1] == 2
    await second.close()


async def test_an_actor_that_dies_during_the_call_is_asked_no_more() -> None:
    lost, other = Weights().server(), Weights().server()
    asking, handles = policy(lost, other)
    await lost.newer(-1, 0.0)
    waiting = asyncio.create_task(asking.act(*question(2)))
    await asyncio.sleep(0)
    handles[0].kill()
    await waiting
    assert [member.name for member in asking.members] == ["inference-1"]
    assert other.ping()["requests"] == 1
    await asyncio.gather(lost.close(), other.close())


async def test_a_wait_for_actors_that_never_come_ends_at_its_deadline() -> None:
    asking, _ = policy(deadline_s=0.01)
    with pytest.raises(DeadlineExceeded, match="pool inference: no member joined"):
        await asking.act(*question(1))


async def test_a_wait_for_an_answer_that_never_comes_ends_at_its_deadline() -> None:
    server = Weights().server()
    asking, _ = policy(server, deadline_s=0.01)
    asking._newest = 9
    with pytest.raises(DeadlineExceeded, match=r"inference-0\.act: no actions of 3 lanes within"):
        await asking.act(*question(3))
    await server.close()


async def test_new_versions_are_told_like_new_weights() -> None:
    weights = Weights()
    server = weights.server()
    asking, _ = policy(server)
    assert asking.poll() is None
    server.receive(weights.packet(3))
    await until(lambda: asking.poll() == 3)
    version, tensors = asking.take()
    asking.load_weights(version, tensors)
    assert (asking.version, tensors, asking.poll()) == (3, {}, None)
    asking.close()
    await server.close()


# Lanes


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("shares", [[range(LANES)], [[0, 3], [1, 2, 5], [4]]], ids=["one worker", "three"])
async def test_fragments_do_not_depend_on_who_computes_the_actions(halves: int, shares: list[Any]) -> None:
    words = ("policy.core={target: gru, size: 8}", f"environment.halves={halves}")
    whole, _ = await play(rollouts(*words), rounds(range(LANES)))
    config = settings(*words)
    lanes = [build_lanes(config.environment, LANES, config.seed) for _ in shares]
    server = InferenceServer(build_engine(config, lanes[0].spec), ObjectStoreReceiver(Weights().layout))

    async def share(own: Any, places: Any) -> dict[str, dict[str, Any]]:
        asking = SharedPolicy(build_policy(config.policy, own.spec, config.seed), seat=0, deadline_s=PATIENCE_S)
        asking.members.attach(LocalHandle("inference-0", server))
        return (await play(SharedLaneRollouts(asking, own, **lane_settings(config)), rounds(places)))[0]

    found = await asyncio.gather(*(share(own, places) for own, places in zip(lanes, shares, strict=True)))
    assert {name: row for part in found for name, row in part.items()} == whole
    if len(shares) > 1:
        assert server.ping()["batches"] < server.ping()["requests"]
    await server.close()


# Settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rollout.inference.actors=1"], "rollout.inference.actors is 1; it must be 0 without an environment"),
        (["environment.backend.target=gymnasium", "rollout.inference.actors=-1"], "rollout.inference.actors is -1"),
        (
            ["environment.backend.target=gymnasium", "rollout.inference.actors=1", "rollout.num_gpus=1"],
            "rollout.num_gpus is 1.0.*give rollout.inference.num_gpus",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], words)


def test_who_holds_the_policy_receives_its_weights() -> None:
    words = ["publish.backend=collective", "rollout.workers=3"]
    own, asking = settings(*words), settings(*words, "rollout.inference.actors=2")
    assert (own.rollout.policies, own.rollout.policy_pool) == (3, "rollout")
    assert (asking.rollout.policies, asking.rollout.policy_pool) == (2, "inference")
    found = [(spec.pool, count, spec.max_members) for spec, count in pools(asking, None, [], [])]
    assert found == [("inference", 2, 2), ("rollout", 3, None)]

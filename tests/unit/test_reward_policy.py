"""Rewards that ask the policy: the workers' engines answer, with the version that answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from engine_models import native_engine, weights

import rewards
from actors.worker import RolloutWorker
from buffers.scores import Sample, Score
from buffers.transport import HandleSet, LocalHandle
from configs.errors import DeadlineExceeded, RunError
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from rewards.base import Component
from rewards.member import RewardMember
from rewards.policy import Policy
from rewards.pools import asking_policy

SEQUENCES = [[3, 5, 7, 9], [4, 4]]


@dataclass(frozen=True, kw_only=True)
class Likely(Component):
    """Mean log-probability of a sample's tokens by the present policy."""

    policy: Policy
    needs = frozenset({"tokens", "policy"})

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        version, logprobs = await self.policy.logprobs([sample.tokens for sample in samples])
        return [Score(value=float(nats[1:].mean()), version=version) for nats in logprobs]


class Rollouts:
    """A worker's rollouts, as far as scoring goes: an engine."""

    def __init__(self, version: int) -> None:
        self.engine = native_engine()
        self.engine.load_weights(version, weights())


def worker(version: int, published: bool = True) -> RolloutWorker:
    made: Any = RolloutWorker(Rollouts(version), None, message_samples=1)  # type: ignore[arg-type]
    made._has_weights = published
    return made


def workers(**members: Any) -> HandleSet:
    handles = HandleSet("rollout")
    for name, member in members.items():
        handles.attach(LocalHandle(name, member))
    return handles


async def test_the_engine_s_own_scores_come_back_with_its_version() -> None:
    found = await Policy(workers(a=worker(7)), 5.0).logprobs(SEQUENCES)
    assert found.version == 7
    for nats, scored in zip(found.logprobs, native_engine().score(SEQUENCES), strict=True):
        np.testing.assert_allclose(nats, scored.logprobs, rtol=1e-6)


async def test_a_worker_that_dies_is_left_for_another_one() -> None:
    handles = workers(a=worker(1), b=worker(2))
    handles["a"].kill()  # type: ignore[attr-defined]
    assert (await Policy(handles, 5.0).logprobs(SEQUENCES)).version == 2


async def test_a_worker_is_waited_for_and_no_longer_than_the_deadline() -> None:
    handles = HandleSet("rollout")
    asking = asyncio.create_task(Policy(handles, 5.0).logprobs(SEQUENCES))
    await asyncio.sleep(0.01)
    assert not asking.done()
    handles.attach(LocalHandle("a", worker(3)))
    assert (await asking).version == 3
    with pytest.raises(DeadlineExceeded, match="pool rollout: no member joined"):
        await Policy(HandleSet("rollout"), 0.01).logprobs(SEQUENCES)


async def test_weights_that_nobody_published_score_nothing() -> None:
    with pytest.raises(RunError, match="no published weights"):
        await Policy(workers(a=worker(0, published=False)), 5.0).logprobs(SEQUENCES)


def section() -> RewardComponentConfig:
    return RewardComponentConfig(component={"target": f"{__name__}:Likely"})


async def test_a_component_finds_the_policy_of_its_host() -> None:
    handles = HandleSet("rollout")
    server = rewards.build_server(section(), name="likely", rng=random.Random(0), policy=Policy(handles, 5.0))
    member = RewardMember("likely", server, [handles])
    member.attach("somewhere_else", LocalHandle("x", None))
    member.attach("rollout", LocalHandle("a", worker(7)))
    (score,) = await member.score([Sample(id="a", group="g", prompt="", completion="", tokens=(3, 5, 7, 9))])
    expected = native_engine().score([[3, 5, 7, 9]])[0].logprobs[1:].mean()
    assert score.version == 7 and score.value == pytest.approx(float(expected), rel=1e-5)
    member.detach("rollout", "a")
    assert len(handles) == 0
    await member.close()


def test_only_pools_that_ask_the_policy_are_told_of_workers() -> None:
    plain = RewardComponentConfig(component={"target": "exact_match"})
    assert asking_policy(RunConfig(rewards=RewardsConfig(components={"a": plain, "b": section()}))) == ("reward.b",)

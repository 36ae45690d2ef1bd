"""Scoring servers of intrinsic rewards: values, versions, and what they pass on to the learner."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import LocalHandle
from configs.errors import ConfigError
from configs.schema import RunConfig
from rewards.intrinsic import INTRINSICS, build_model
from rewards.intrinsic.base import Evidence
from rewards.intrinsic.member import IntrinsicMember, build
from rewards.intrinsic.met import Met

LABELS = ((("a key",), 1.0), (("a wall",), 0.0))


class Learner:
    """Keeps what scorers submit."""

    def __init__(self) -> None:
        self.messages: list[Met] = []

    def submit(self, met: Met) -> None:
        self.messages.append(met)


def sample(name: str, *captions: str) -> Sample:
    return Sample(id=name, group="g", prompt="", completion="", captions=captions)


def config(intrinsic: str, **options: Any) -> RunConfig:
    return RunConfig(intrinsic=intrinsic, intrinsics={intrinsic: options})


async def scores(member: IntrinsicMember, samples: Sequence[Sample]) -> list[Score]:
    return await asyncio.wait_for(member.score(samples), 10.0)


async def test_counts_score_one_for_each_step_that_says_something():
    member = await build(config("counts"), "intrinsic")
    [score] = await scores(member, [sample("s", "a key", "", "a key")])
    assert (score.value, score.vector, score.component, score.version) == (2.0, (1.0, 0.0, 1.0), "intrinsic", 0)
    await member.close()


async def test_retrieval_answers_with_the_labels_of_the_version_it_was_given():
    settings = config("retrieval")
    member, model = await build(settings, "intrinsic"), build_model(settings)
    steps = sample("s", "a key", "a wall", "a door")
    assert (await scores(member, [steps]))[0].vector == (0.0, 0.0, 0.0)
    model.update(Evidence(labels=LABELS))
    assert member.install(model.version, model.state()) == 1
    [score] = await scores(member, [steps])
    assert (score.vector, score.version) == ((1.0, 0.0, 0.0), 1)
    assert member.install(0, {}) == 1, "an older version is refused"
    await member.close()


async def test_what_has_no_value_abstains():
    member = await build(config("retrieval", unlabelled=None), "intrinsic")
    unlabelled, nothing = await scores(member, [sample("s", "a key"), sample("t")])
    assert unlabelled.status is ScoreStatus.ABSTAINED and "1 of 1 captions of s" in unlabelled.detail
    assert nothing.status is ScoreStatus.ABSTAINED and "environment.captions" in nothing.detail
    await member.close()


async def test_captions_reach_the_learner_with_their_counts_and_the_versions_in_use():
    member, learner = await build(config("retrieval"), "intrinsic"), Learner()
    member.attach("intrinsic_learner", LocalHandle("intrinsic_learner-0", learner))
    await scores(member, [sample("s", "a key", "", "a key", "a wall")])
    async with asyncio.timeout(10.0):
        while not learner.messages:
            await asyncio.sleep(0.01)
    [met] = learner.messages
    assert met.captions == {"a key": 2, "a wall": 1}
    assert list(met.used) == [0]
    await member.close()


async def test_a_script_is_scored_at_once():
    rules = [{"match": "key", "value": 1}, {"match": "wall", "value": 0.5}]
    member = await build(config("script", rules=rules), "intrinsic")
    assert (await scores(member, [sample("s", "a key", "a wall", "a door")]))[0].vector == (1.0, 0.5, 0.0)
    await member.close()


@pytest.mark.parametrize("rule", [{"match": "("}, {"match": "(", "value": 1}, {"match": "a", "value": 2}])
def test_a_wrong_rule_is_refused(rule: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"intrinsics\.script.*rules"):
        build_model(config("script", rules=[rule]))


def test_a_state_holds_arrays_alone():
    for name in set(INTRINSICS) & {"counts", "retrieval"}:
        assert all(isinstance(value, np.ndarray) for value in build_model(config(name)).state().values())


async def test_a_learner_that_is_gone_costs_nothing_but_what_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rewards.intrinsic.met.CAPTIONS", 3)
    monkeypatch.setattr("rewards.online.outbox.PAUSE_S", 0.01)
    member, learner = await build(config("retrieval"), "intrinsic"), Learner()
    gone = LocalHandle("intrinsic_learner-0", learner)
    gone.kill()
    member.attach("intrinsic_learner", gone)
    for text in "abcdb":
        [score] = await scores(member, [sample(text, text)])
        assert score.vector == (0.0,)
    await until_failed(member)
    member.detach("intrinsic_learner", "intrinsic_learner-0")
    member.attach("intrinsic_learner", LocalHandle("intrinsic_learner-1", learner))
    async with asyncio.timeout(10.0):
        while member.stats()["outbox"]:
            await asyncio.sleep(0.01)
    counts: Counter[str] = sum((Counter(met.captions) for met in learner.messages), Counter())
    assert counts == {"b": 2, "c": 1, "d": 1}, "the one longest unseen was let go"
    assert member.stats()["outbox_dropped"] == 1
    await member.close()


async def until_failed(member: IntrinsicMember) -> None:
    async with asyncio.timeout(10.0):
        while not member.stats()["outbox_failed"]:
            await asyncio.sleep(0.01)


async def test_a_call_that_runs_keeps_the_version_it_began_with():
    member, model = await build(config("retrieval"), "intrinsic"), build_model(config("retrieval"))
    model.update(Evidence(labels=LABELS))
    running = asyncio.create_task(member.score([sample("s", "a key")]))
    await asyncio.sleep(0)
    while member.stats()["queue"] == 0 and not running.done():
        member.install(model.version, model.state())
        await asyncio.sleep(0)
    [score] = await running
    assert (score.version, score.vector) in [(0, (0.0,)), (1, (1.0,))], "version and value belong together"
    await member.close()


async def test_a_caption_is_computed_once_per_version():
    member = await build(config("retrieval"), "intrinsic")
    for _ in range(3):
        await scores(member, [sample("s", "a key", "a key"), sample("t", "a key", "a wall")])
    assert member.stats()["scored_captions"] == 2
    await member.close()

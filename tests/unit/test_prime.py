"""PRIME: what it learns from outcomes, and the actor that trains it beside its servers."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from buffers.scores import Sample, ScoreStatus
from buffers.trajectory import Span
from buffers.transport import LocalHandle
from configs.errors import RunError
from configs.language import ModelConfig
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from launch import make_parts
from rewards import REWARDS
from rewards.online import learner as online_learner
from rewards.online.base import Lessons, OnlineComponent, is_online
from rewards.online.learner import OnlineLearner
from rewards.online.member import OnlineMember
from rewards.online.member import build as build_member
from rewards.pools import pools
from rewards.process.hosted import HostedModel
from rewards.process.outcome_fit import Lesson
from rewards.process.prime import Prime
from rewards.reference import reference_folder
from tests.unit.engine_models import folder

BAD = 9
"""A token that spoils any answer."""


def prime(**settings: object) -> Prime:
    return Prime(**{"after": ["correct"], "model": folder(), "learning_rate": 3e-3, **settings})  # type: ignore[arg-type]


def answers(count: int, seed: int) -> list[Lesson]:
    """Prompts of two tokens, answers of six, half of them with one bad token somewhere."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        tokens = [draw.randrange(3, 9) for _ in range(8)]
        if number % 2:
            tokens[draw.randrange(2, 8)] = BAD
        found.append(Lesson(tuple(tokens), ((2, 8),), float(BAD not in tokens)))
    return found


def sample(name: str, lesson: Lesson) -> Sample:
    return Sample(
        id=name, group="g", prompt="", completion="", tokens=lesson.tokens, num_tokens=6,
        spans=tuple(Span("turn", *turn) for turn in lesson.turns), metadata={"scores": {"correct": lesson.outcome}},
    )  # fmt: skip


def samples(lessons: Sequence[Lesson]) -> list[Sample]:
    return [sample(str(number), lesson) for number, lesson in enumerate(lessons)]


def test_version_0_finds_nothing_better_than_anything_else():
    [score] = prime().score(samples(answers(1, 0)))
    assert score.value == 0.0 and score.span_values == (0.0,) * 6 and score.version == 0
    assert [(s.start, s.end) for s in score.spans] == [(at, at + 1) for at in range(2, 8)]


def test_the_loss_is_the_cross_entropy_of_beta_times_the_log_ratio():
    component, lessons = prime(learning_rate=1e-2), answers(16, 1)
    assert component.update(lessons)["loss"] == pytest.approx(math.log(2)), "all rewards are 0 before the first step"
    scores = component.score(samples(lessons))
    trained, sequences = HostedModel(folder()), [lesson.tokens for lesson in lessons]
    weights = {name.removeprefix("network."): torch.from_numpy(array) for name, array in component.state().items()}
    trained.network.load_state_dict(weights)
    found = zip(trained.logprobs(sequences), HostedModel(folder()).logprobs(sequences), strict=True)
    expected = 0.0
    for (now, before), lesson, score in zip(found, lessons, scores, strict=True):
        q = (now - before)[2:8].double()
        reward = 0.05 * float(q.sum())
        assert score.value == pytest.approx(reward, abs=1e-5)
        assert score.span_values == pytest.approx(q.tolist(), abs=1e-4)
        right = 1 / (1 + math.exp(-reward))
        expected -= lesson.outcome * math.log(right) + (1 - lesson.outcome) * math.log(1 - right)
    assert component.update(lessons)["loss"] == pytest.approx(expected / len(lessons), abs=1e-5)
    assert component.version == 2


def test_from_outcomes_alone_it_learns_which_token_is_at_fault():
    component = prime(batch_size=32, beta=0.5)
    for seed in range(12):
        metrics = component.update(answers(128, seed))
    assert metrics["outcome_accuracy"] > 0.9, "of answers that were never seen before"
    wrong = [lesson for lesson in answers(64, 99) if not lesson.outcome]
    found = [min(range(6), key=score.span_values.__getitem__) + 2 for score in component.score(samples(wrong))]
    assert sum(lesson.tokens[at] == BAD for lesson, at in zip(wrong, found, strict=True)) > 0.9 * len(wrong)


def test_prompts_and_what_tools_said_are_not_learned_from():
    component = prime()
    lesson = Lesson((3, 4, 5, 6, 7, 8), ((2, 3), (5, 6)), 1.0)
    component.update([lesson])
    [score] = component.score([sample("s", lesson)])
    ratios = component._ratios([lesson.tokens])[0]
    assert score.value == pytest.approx(0.05 * float(ratios[2] + ratios[5]), abs=1e-7)


def test_a_resumed_component_learns_on_as_if_it_had_never_stopped():
    one, lessons = prime(), answers(32, 3)
    one.update(lessons)
    other = prime()
    other.load(1, {**one.state(), **one.training_state()})
    one.update(lessons)
    other.update(lessons)
    assert all((one.state()[name] == array).all() for name, array in other.state().items())


def test_samples_without_an_outcome_teach_nothing():
    given = samples(answers(2, 0))
    given[0].metadata["scores"]["correct"] = None
    assert [lesson.tokens for lesson in prime().lessons(given, [])] == [given[1].tokens]
    [score] = prime().score([Sample(id="s", group="g", prompt="", completion="", tokens=(3,))])
    assert score.status is ScoreStatus.ABSTAINED
    with pytest.raises(ValueError, match=r"'correct' gave 2.0; outcomes must lie in \[0, 1\]"):
        prime().update([answers(1, 0)[0]._replace(outcome=2.0)])


# -- the actor beside the servers -------------------------------------------------------------------


def settings(**component: object) -> RunConfig:
    section = {"target": "prime", "after": ["correct"], "learning_rate": 3e-3, **component}
    parts = {
        "correct": RewardComponentConfig(component={"target": "exact_match"}),
        "process": RewardComponentConfig(component=section, credit="steps"),
    }
    return RunConfig(model=ModelConfig(path=folder()), rewards=RewardsConfig(components=parts))


@asynccontextmanager
async def learner_of(config: RunConfig, run: Path) -> AsyncIterator[OnlineLearner]:
    learner = online_learner.build(config, run, "process")
    try:
        yield learner
    finally:
        await learner.close()


async def join(learner: OnlineLearner, config: RunConfig, run: Path, number: int = 0) -> OnlineMember:
    """Add a server, as the supervisor does."""
    member = await build_member(config, run, "process")
    learner.attach("reward.process", LocalHandle(f"reward.process-{number}", member))
    member.attach("reward_learner.process", LocalHandle("reward_learner.process-0", learner))
    return member


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(30.0):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never came: {what}")


async def test_what_is_scored_is_learned_and_comes_back_as_a_version(tmp_path: Path):
    config = settings()
    async with learner_of(config, tmp_path) as learner:
        member = await join(learner, config, tmp_path)
        first = await member.score(samples(answers(16, 0)))
        assert {score.version for score in first} == {0} and {score.component for score in first} == {"process"}
        await until(lambda: member.stats()["version"] == 1, "version 1 at the server")
        second = await member.score(samples(answers(16, 0)))
        assert {score.version for score in second} == {1} and any(score.value for score in second)
        figures = learner.ping()
        assert figures["lessons"] >= 16 and figures["loss"] > 0
        late = await join(learner, config, tmp_path, 1)
        await until(
            lambda: late.stats()["version"] == learner.stats()["version"], "the newest version at a late server"
        )
        member.ping()
        await member.close()
        await late.close()


async def test_a_successor_goes_on_from_the_version_on_disk(tmp_path: Path):
    config = settings()
    async with learner_of(config, tmp_path) as learner:
        await learner.submit(Lessons(items=answers(16, 0), sender="one", end=16))
        assert learner.stats()["version"] == 1
        state = learner._component.state()
    async with learner_of(config, tmp_path) as successor:
        assert successor.stats()["version"] == 1
        assert all((state[name] == array).all() for name, array in successor._component.state().items())
        member = await join(successor, config, tmp_path)
        await until(lambda: member.stats()["version"] == 1, "the version of before at a new server")
        await member.close()


async def test_an_outcome_that_is_no_probability_ends_the_learner_with_a_reason(tmp_path: Path):
    async with learner_of(settings(), tmp_path) as learner:
        told = asyncio.create_task(
            learner.submit(Lessons(items=[answers(1, 0)[0]._replace(outcome=3.0)], sender="one", end=1))
        )
        with pytest.raises(RunError, match=r"training of Prime ended.*outcomes must lie in"):
            async with asyncio.timeout(30.0):
                while learner.ping():
                    await asyncio.sleep(0.005)
        assert not told.done(), "nobody may believe that it was learned"
        told.cancel()


async def test_what_a_sender_repeats_is_learned_once_by_a_learner_and_its_successor(tmp_path: Path):
    lessons = answers(12, 0)
    async with learner_of(settings(), tmp_path) as learner:
        await learner.submit(Lessons(items=lessons[:4], sender="one", end=4))
        await learner.submit(Lessons(items=lessons[:4], sender="one", end=4))
        await learner.submit(Lessons(items=lessons[:4], sender="another", end=4))
        assert (learner.stats()["lessons"], learner.stats()["version"]) == (8, 2)
    async with learner_of(settings(), tmp_path) as successor:
        # No receipt came for the first four, so that the sender says them again with four that are new.
        await successor.submit(Lessons(items=lessons[:8], sender="one", end=8))
        assert (successor.stats()["lessons"], successor.stats()["version"]) == (4, 3)


async def test_what_a_learner_had_in_hand_when_it_ended_is_learned_by_its_successor(tmp_path: Path):
    config = settings()
    config.cluster.call_deadline_s = 0.3  # a process that is gone would be told of at once
    async with learner_of(config, tmp_path) as learner:
        assert learner._training is not None
        learner._training.cancel()  # it takes messages in, and learns nothing any more
        member = await join(learner, config, tmp_path)
        await member.score(samples(answers(16, 0)))
        await until(lambda: learner.stats()["waiting"] == 16, "the message")
        member.detach("reward_learner.process", "reward_learner.process-0")
    async with learner_of(config, tmp_path) as successor:
        successor.attach("reward.process", LocalHandle("reward.process-0", member))
        member.attach("reward_learner.process", LocalHandle("reward_learner.process-1", successor))
        await until(lambda: successor.stats()["lessons"] == 16, "the same message")
        await until(lambda: member.version == successor.stats()["version"] == 1, "the version")
        await member.close()


async def test_a_new_server_begins_with_the_newest_version_on_disk(tmp_path: Path):
    config = settings()
    async with learner_of(config, tmp_path) as learner:
        await learner.submit(Lessons(items=answers(16, 0), sender="one", end=16))
    alone = await build_member(config, tmp_path, "process")
    scores = await alone.score(samples(answers(4, 0)))
    await alone.close()
    assert {score.version for score in scores if score is not None} == {1}


async def test_what_a_server_took_along_when_it_ended_is_counted_and_nothing_else(tmp_path: Path):
    config = settings()
    one, other = [await build_member(config, tmp_path, "process") for _ in range(2)]
    await one.score(samples(answers(16, 0)))
    async with learner_of(config, tmp_path) as learner:
        assert learner.stats()["lost"] == 0, "both live, and may still send"
        other.attach("reward_learner.process", LocalHandle("reward_learner.process-0", learner))
        await other.score(samples(answers(8, 1)))
        await until(lambda: learner.stats()["lessons"] == 8, "what the other met")
        await one.close()
        await other.close()
        assert learner.stats()["lost"] == 16
    async with learner_of(config, tmp_path) as successor:
        assert (successor.stats()["lost"], successor.stats()["lessons"]) == (16, 0), "it knows who had arrived"


async def test_what_a_sender_let_go_of_is_no_loss_but_counted(tmp_path: Path):
    async with learner_of(settings(), tmp_path) as learner:
        await learner.submit(Lessons(items=answers(4, 0), sender="one", end=10))
        assert (learner.stats()["lessons"], learner.stats()["let_go"]) == (4, 6)
        await learner.submit(Lessons(items=answers(4, 0), sender="one", end=10))
        assert (learner.stats()["lessons"], learner.stats()["let_go"]) == (4, 6), "said twice, counted once"


def test_lessons_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rewards.online.base.LESSONS", 3)
    both = Lessons(items=[1, 2]).followed_by(Lessons(items=[3, 4]))
    assert both.trim() == 1 and both.items == [2, 3, 4]


def test_only_components_that_learn_have_a_learner(tmp_path: Path):
    found = {pool.pool: pool for pool in pools(settings(), tmp_path, make_parts(settings()))}
    assert set(found) == {"reward.correct", "reward.process", "reward_learner.process"}
    assert found["reward_learner.process"].attached_to == ("reward.process",)
    assert "reward_learner.process" in found["reward.process"].attached_to
    assert is_online(settings().rewards.components["process"], "process") and issubclass(Prime, OnlineComponent)
    assert "prime" in REWARDS


def test_both_models_begin_as_the_policy_before_its_first_update(tmp_path: Path):
    config = settings()
    assert reference_folder(config, tmp_path) == Path(folder())
    config.warm_start.updates = 1
    assert reference_folder(config, tmp_path) == tmp_path / "reference"

"""The process reward model that learns from the trees that groups of solutions are."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from buffers.scores import Sample, ScoreStatus
from buffers.trajectory import Span
from buffers.transport import LocalHandle
from configs.language import ModelConfig
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from learners.models.load import create_model_folder
from rewards.online.learner import build as build_learner
from rewards.online.member import build as build_member
from rewards.process.hierarchical import HierarchicalPrm, Tried, examples
from rewards.process.merging import fused
from rewards.process.trees import Tokens
from tests.unit.engine_models import model_config

LINE, GOOD, BAD, REPAIRED = 13, 3, 4, 5
QUESTION: Tokens = (6, 7)


@pytest.fixture(scope="module")
def lined(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose alphabet has a line end."""
    config = model_config(initializer_range=0.3)
    config.characters = "0123456789+\n"
    return str(create_model_folder(config, tmp_path_factory.mktemp("models") / "lined", 5))


def hierarchical(model: str, **settings: object) -> HierarchicalPrm:
    given = {"after": ["correct"], "model": model, "learning_rate": 3e-3, **settings}
    return HierarchicalPrm(**given)  # type: ignore[arg-type]


def solution(*steps: int) -> tuple[Tokens, ...]:
    return tuple((step, LINE) for step in steps)


def sample(name: str, steps: tuple[Tokens, ...], outcome: float | None) -> Sample:
    tokens = QUESTION + tuple(token for step in steps for token in step)
    return Sample(
        id=name, group="g", prompt="", completion="", tokens=tokens, num_tokens=len(tokens) - 2,
        spans=(Span("turn", 2, len(tokens)),), metadata={"scores": {"correct": outcome}},
    )  # fmt: skip


def walks(count: int, seed: int) -> list[Tried]:
    """Solutions of three steps: a bad step makes them wrong, unless the next one repairs it."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        steps = [draw.choice((GOOD, BAD, REPAIRED)) for _ in range(3)]
        wrong = any(step == BAD and steps[at + 1 : at + 2] != [REPAIRED] for at, step in enumerate(steps))
        found.append(Tried((6 + number % 2, 7), solution(*steps), not wrong))
    return found


def test_version_0_finds_no_step_better_than_another(lined: str):
    [score, empty] = hierarchical(lined).score([sample("s", solution(GOOD, BAD), 1.0), sample("t", (), 1.0)])
    assert (score.value, score.span_values, score.version) == (0.0, (0.0, 0.0), 0)
    assert [(span.start, span.end) for span in score.spans] == [(2, 4), (4, 6)]
    assert empty.status is ScoreStatus.ABSTAINED


def test_a_lesson_is_a_solution_in_steps_with_its_outcome(lined: str):
    given = [sample("a", solution(GOOD, BAD), 0.5), sample("b", solution(GOOD), 0.4), sample("c", solution(BAD), None)]
    expected = [Tried(QUESTION, solution(GOOD, BAD), True), Tried(QUESTION, solution(GOOD), False)]
    assert hierarchical(lined).lessons(given, []) == expected


def test_examples_are_the_shares_of_right_solutions_and_those_with_merged_steps():
    ends = [Tried(QUESTION, solution(GOOD, BAD, last), right) for last, right in ((6, True), (7, True), (8, 0), (9, 0))]
    found = examples(ends, random.Random(0), 1.0)
    scores = {one.steps: one.score for one in found}
    path = solution(GOOD, BAD)
    assert len(found) == 6 + 2 and {one.question for one in found} == {QUESTION}
    [merged] = [one for one in found if len(one.steps) == 2 and len(one.steps[-1]) == 4]
    assert merged.steps[1][:2] == path[1] and merged.score in (0.0, 1.0)
    assert [one.score for one in found if one.steps == path] == [0.5, pytest.approx((2 - merged.score) / 3)]
    assert scores[path[:1]] == 0.5, "no leaf comes or goes"
    assert len(examples(ends, random.Random(0), 0.0)) == 6


def test_a_score_is_the_mean_of_the_step_and_of_the_merged_step(lined: str):
    component = hierarchical(lined, balance=False)
    component.update(walks(32, 0))
    steps = solution(GOOD, BAD, REPAIRED)
    [score] = component.score([sample("s", steps, None)])
    assert component.fit is not None
    head, eos = component.fit.network, component.origin.tokenizer.eos_token_id
    (a, b, c), q = steps, QUESTION
    asked = [(*q, *a, eos), (*q, *a, eos, *b, eos), (*q, *a, eos, *b, eos, *c, eos), (*q, *a, *b, eos)]
    asked.append((*q, *a, eos, *b, *c, eos))
    with torch.no_grad():
        right = [float(2 * head([one], [[len(one) - 1]]).softmax(-1)[0, 1] - 1) for one in asked]
    assert score.span_values == pytest.approx(fused(right[:3], right[3:]), abs=1e-5)
    assert score.value == min(score.span_values) and score.version == 1


def test_from_outcomes_alone_it_learns_which_step_is_at_fault_and_which_was_repaired(lined: str):
    component = hierarchical(lined, learning_rate=1e-2, balance=False, probability=0.5)
    for seed in range(12):
        metrics = component.update(walks(128, seed))
    assert metrics["examples"] > 0 and metrics["loss"] < math.log(2)
    told = [solution(GOOD, GOOD, GOOD), solution(GOOD, GOOD, BAD), solution(GOOD, BAD, REPAIRED)]
    right, wrong, repaired = (s.span_values for s in component.score([sample("s", one, None) for one in told]))
    assert right[-1] > 0.5 > -0.5 > wrong[-1], (right, wrong)
    assert repaired[-1] > 0.5, repaired


def test_a_resumed_component_learns_on_as_if_it_had_never_stopped(lined: str):
    one, other, lessons = hierarchical(lined), hierarchical(lined), walks(64, 3)
    one.update(lessons)
    other.load(1, {**one.state(), **one.training_state()})
    assert one.at(1, one.state()).score([sample("s", solution(GOOD, BAD), None)]) == one.score(
        [sample("s", solution(GOOD, BAD), None)]
    )
    one.update(lessons)
    other.update(lessons)
    assert one.version == other.version == 2
    assert all(np.array_equal(one.state()[name], array) for name, array in other.state().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"after": "correct"}, "must name one component"),
        ({"batch_size": 0}, "batch_size is 0; it must be >= 1"),
        ({"probability": 1.5}, r"probability is 1.5; it must lie in \[0, 1\]"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        hierarchical("m", **settings)


async def test_it_learns_in_an_actor_beside_its_servers(lined: str, tmp_path: Path):
    section = {"target": "hierarchical_prm", "after": ["correct"], "learning_rate": 1e-2, "balance": False}
    parts = {"process": RewardComponentConfig(component=section, credit="steps")}
    config = RunConfig(model=ModelConfig(path=lined), rewards=RewardsConfig(components=parts))
    learner = build_learner(config, tmp_path, "process")
    member = await build_member(config, tmp_path, "process")
    try:
        learner.attach("reward.process", LocalHandle("reward.process-0", member))
        member.attach("reward_learner.process", LocalHandle("reward_learner.process-0", learner))
        given = [sample(str(n), one.steps, float(one.right)) for n, one in enumerate(walks(16, 0))]
        first = await member.score(given)
        async with asyncio.timeout(60.0):
            while member.version < 1:
                await asyncio.sleep(0.01)
        second = await member.score(given)
    finally:
        await member.close()
        await learner.close()
    assert {(score.version, score.value) for score in first if score is not None} == {(0, 0.0)}
    assert {score.version for score in second if score is not None} == {1} and any(s.value for s in second if s)

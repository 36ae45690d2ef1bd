"""The learner of a reward component that is killed at the worst moments: no number means two models."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from buffers.scores import Sample
from buffers.trajectory import Span
from buffers.transport import LocalHandle
from configs.errors import Corruption, StaleEpoch
from configs.language import ModelConfig
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from rewards.online.base import Lessons
from rewards.online.learner import build
from rewards.online.member import build as build_member
from rewards.process.hosted import HostedModel
from rewards.process.outcome_fit import Lesson
from tests.faults.dying_learner import Scorer, digest, installed
from tests.faults.kill_at import Cut, half_a_write, whole
from tests.unit.engine_models import folder

pytestmark = [pytest.mark.integration, pytest.mark.fault]

LIFE_S = 120.0
CUTS = {
    "in the middle of training": Cut(target="rewards.process.outcome_fit:OutcomeFit._rewards", call=5),
    "before a version is on disk": Cut(target="buffers.files:OsFiles.write", about=".state", call=3),
    "in the middle of writing a version": Cut(
        target="buffers.files:OsFiles.write", about=".state", call=3, half=half_a_write
    ),
    "before a version gets its name": Cut(target="buffers.files:OsFiles.rename", about=".state", call=3),
    "between disk and publication": Cut(target="rewards.online.archive:Archive.save", call=3, half=whole),
}


def settings(model: str) -> RunConfig:
    section = {"target": "prime", "after": ["correct"], "learning_rate": 1e-2, "batch_size": 4}
    parts = {"process": RewardComponentConfig(component=section, credit="steps")}
    return RunConfig(model=ModelConfig(path=model), rewards=RewardsConfig(components=parts))


def die_at(cut: Cut, run: Path) -> int:
    """Let a learner live until the cut; return the exit code of its process."""
    process = multiprocessing.get_context("spawn").Process(target=_live, args=(cut, run, folder()))
    process.start()
    process.join(2 * LIFE_S)
    code = process.exitcode
    process.kill()
    process.join()
    assert code is not None, "the process neither reached the cut nor ended"
    return code


def _live(cut: Cut, run: Path, model: str) -> None:
    assert HostedModel(model).network, "its libraries are loaded before the clock starts"
    cut.arm()
    asyncio.run(_learn(run, model))


async def _learn(run: Path, model: str) -> None:
    learner: Any = build(settings(model), run, "process")
    learner.attach("reward.process", LocalHandle("reward.process-0", Scorer(run)))
    async with asyncio.timeout(LIFE_S):
        for number in range(1000):
            version = learner.stats()["version"]
            lesson = Lesson((3, 4, 5 + number % 3, 6), ((2, 4),), float(number % 2))
            await learner.submit(Lessons(items=[lesson] * 8, sender="test", end=8 * (number + 1)))
            assert learner.stats()["version"] > version


@pytest.mark.parametrize("state", CUTS)
async def test_a_killed_learner_is_resumed_by_its_successor(tmp_path: Path, state: str):
    assert die_at(CUTS[state], tmp_path) == -signal.SIGKILL
    given = installed(tmp_path)
    learner = build(settings(folder()), tmp_path, "process")
    try:
        version = learner.stats()["version"]
        assert version >= max(given, default=0) >= 1
        if version in given:
            assert digest(learner._component.state()) == given[int(version)], "one number, one model"
        async with asyncio.timeout(30.0):
            # Without a receipt the sender repeats its last message: it is learned now, or was, never twice.
            stored = "disk and" in state
            await learner.submit(Lessons(items=[Lesson((3, 4, 5, 6), ((2, 4),), 1.0)] * 8, sender="test", end=24))
            assert learner.stats()["version"] == version + (not stored)
            assert learner.stats()["lessons"] == (0 if stored else 8)
            await learner.submit(Lessons(items=[Lesson((3, 4, 5, 6), ((2, 4),), 1.0)], sender="test", end=25))
            assert learner.stats()["version"] == version + (not stored) + 1
    finally:
        await learner.close()


def _score_and_die(run: Path, model: str) -> None:
    asyncio.run(_score(run, model))
    os.kill(os.getpid(), signal.SIGKILL)


async def _score(run: Path, model: str) -> None:
    member = await build_member(settings(model), run, "process")
    turn, right = (Span("turn", 2, 4),), {"scores": {"correct": 1.0}}
    known = {"prompt": "", "completion": "", "tokens": (3, 4, 5, 6), "num_tokens": 2, "spans": turn, "metadata": right}
    scores = await member.score([Sample(id=str(n), group="g", **known) for n in range(12)])
    assert all(score is not None and score.value == 0.0 for score in scores)


async def test_what_a_killed_server_had_not_sent_yet_is_in_the_learners_figures(tmp_path: Path):
    process = multiprocessing.get_context("spawn").Process(target=_score_and_die, args=(tmp_path, folder()))
    process.start()
    process.join(LIFE_S)
    assert process.exitcode == -signal.SIGKILL
    learner = build(settings(folder()), tmp_path, "process")
    try:
        assert learner.stats()["lost"] == 12
    finally:
        await learner.close()


async def test_a_learner_that_was_replaced_writes_nothing_more(tmp_path: Path):
    old, new = (build(settings(folder()), tmp_path, "process") for _ in range(2))
    try:
        with pytest.raises(StaleEpoch, match="fenced off"):
            await old._update([Lesson((3, 4, 5, 6), ((2, 4),), 1.0)], {})
    finally:
        await old.close()
        await new.close()


async def test_versions_that_are_all_damaged_are_refused(tmp_path: Path):
    assert die_at(CUTS["between disk and publication"], tmp_path) == -signal.SIGKILL
    for path in (tmp_path / "rewards" / "process").glob("v*.state"):
        path.write_bytes(b"nothing")
    with pytest.raises(Corruption, match="xxh3"):
        build(settings(folder()), tmp_path, "process")

"""Scores that are given when a batch is read: once each, recorded with their update, and never waited for in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from stream_scene import Scene, Verdict

import rewards
from buffers.batch import Batch
from buffers.batch_metrics import text_metrics
from buffers.batch_scoring import BatchScoring
from buffers.scores import INTRINSIC, Sample, Score, ScoreStatus, StepRewards
from buffers.streams import read_stream
from buffers.tables import SCORES
from buffers.transport import HandleSet, LocalHandle
from configs.errors import ConfigError, DeadlineExceeded
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from configs.stream import BufferConfig
from rewards.base import Component
from rewards.combine import Combine, Term
from rewards.graph import RewardGraph, RewardPart
from rewards.schedules import Constant, Linear


@dataclass
class Scorer:
    """A reward model of a growing version; its value is the version, and it can be held up."""

    version: int = 10
    open: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Sample] = field(default_factory=list)

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.seen += samples
        await self.open.wait()
        self.version += 1
        return [Score(value=float(self.version), component="late", version=self.version) for _ in samples]


class AtBatch(Component):
    when = "batch"


class Fixed(Component):
    after = frozenset({"late"})


def graph(scorer: object, **named: Any) -> RewardGraph:
    pools = {"r": HandleSet("r"), "late": HandleSet("late")}
    pools["late"].attach(LocalHandle("late-0", scorer))
    parts = {
        "r": RewardPart(replicas=pools["r"], deadline_s=5.0),
        "late": RewardPart(replicas=pools["late"], deadline_s=5.0, when="batch", **named),
    }
    return RewardGraph(parts, Combine({"r": Term(), "late": Term(weight=Constant(0.5))}))


def composed(folder: Path, groups: int = 2) -> tuple[Scene, Batch]:
    scene = Scene(folder, groups=groups, members=2)
    scene.finish(scene.buffer.lease("w", 2 * groups))
    batch = scene.buffer.compose()
    assert batch is not None
    return scene, batch


def scoring(scene: Scene, scorer: object) -> BatchScoring:
    return BatchScoring(graph(scorer), payloads=scene.buffer.payloads, log=scene.ledger)


async def test_a_batch_is_scored_once_and_its_total_is_combined_again(tmp_path: Path):
    scene, batch = composed(tmp_path / "run")
    scorer = Scorer()
    scorer.open.set()
    service = scoring(scene, scorer)
    first, second = await service.scored(batch, 5.0), await service.scored(batch, 5.0)
    assert first is second and len(scorer.seen) == 4
    table = scene.buffer.table(first)
    assert table["reward"].to_pylist() == [0.0 + 5.5, 1.0 + 5.5] * 2  # half of version 11
    assert [row.reward for row in batch.rows] == [0.0, 1.0] * 2, "what arrived stays as it is"
    metrics = text_metrics(first, max_completion_length=8)
    assert (metrics["reward/mean"], metrics["rewards/late/mean"]) == (6.0, 11.0)
    scene.close()


async def test_scores_are_on_disk_with_their_update_before_the_commit_goes_on(tmp_path: Path):
    scene, batch = composed(tmp_path / "run")
    scorer = Scorer()
    scorer.open.set()
    service = scoring(scene, scorer)
    await service.scored(batch, 5.0)
    await service.stored(batch.version, 5.0)
    rows = read_stream(tmp_path / "run" / "ledger", "scores", SCORES).to_pylist()
    assert [(row["trajectory_id"], row["component"], row["update_version"], row["version"]) for row in rows] == [
        (name, "late", 0, 11) for name in batch.ids
    ]
    scene.close()


async def test_training_is_not_recorded_while_the_disk_has_not_taken_the_scores(tmp_path: Path):
    scene, batch = composed(tmp_path / "run")
    scorer, waiting = Scorer(), Future[None]()
    scorer.open.set()

    class SlowLog:
        def record_scores(self, scores: object, update_version: int | None = None) -> Future[None]:
            return waiting

    service = BatchScoring(graph(scorer), payloads=scene.buffer.payloads, log=SlowLog())
    await service.scored(batch, 5.0)
    with pytest.raises(DeadlineExceeded, match=r"scores of batch 0 are not on disk within 0\.01 s"):
        await service.stored(0, 0.01)
    with pytest.raises(DeadlineExceeded):  # a call that is delivered twice waits as well
        await service.stored(0, 0.01)
    scene.close()


async def test_a_batch_that_takes_long_goes_on_for_the_next_call(tmp_path: Path):
    scene, batch = composed(tmp_path / "run")
    scorer = Scorer()
    service = scoring(scene, scorer)
    with pytest.raises(DeadlineExceeded, match=r"batch 0 has no scores by late within 0\.01 s, from toy:0:0:0"):
        await service.scored(batch, 0.01)
    scorer.open.set()
    assert (await service.scored(batch, 5.0)).verdicts.keys() == set(batch.ids)
    assert len(scorer.seen) == 4, "asked once"
    scene.close()


async def test_an_invalid_score_leaves_its_sample_in_the_batch_without_a_reward(tmp_path: Path):
    class Silent:
        def score(self, samples: Sequence[Sample]) -> list[Score]:
            return [Score.invalid(ScoreStatus.ABSTAINED, "no idea", component="late")] + [
                Score(value=2.0, component="late") for _ in samples[1:]
            ]

    scene, batch = composed(tmp_path / "run")
    scored = await scoring(scene, Silent()).scored(batch, 5.0)
    table = scene.buffer.table(scored)
    assert table["reward"].to_pylist() == [None, 2.0, 1.0, 2.0]
    assert table["reward_valid"].to_pylist() == [False, True, True, True]
    assert text_metrics(scored, max_completion_length=8)["rewards/late/invalid"] == 1.0
    scene.buffer.commit(scored)
    assert scene.buffer.payloads.held_bytes == 0, "a sample without a reward is released as well"
    scene.close()


async def test_a_component_sees_what_was_said_at_arrival(tmp_path: Path):
    scene, batch = composed(tmp_path / "run")
    scorer = Scorer()
    scorer.open.set()
    wired = graph(scorer, after=frozenset({"r"}))
    await BatchScoring(wired, payloads=scene.buffer.payloads, log=scene.ledger).scored(batch, 5.0)
    assert [sample.metadata["scores"] for sample in scorer.seen] == [{"r": 0.0}, {"r": 1.0}] * 2
    scene.close()


async def test_at_arrival_a_later_component_is_neither_asked_nor_recorded():
    late = Scorer()
    wired = graph(late)
    wired._parts["r"].replicas.attach(LocalHandle("r-0", Fixture(3.0)))
    verdicts = await wired.score([Sample(id="a", group="g", prompt="", completion="")], 0)
    assert (verdicts[0].total, list(verdicts[0].scores), late.seen) == (3.0, ["r"], [])


def test_rewards_of_steps_given_at_arrival_reach_the_learner(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2)
    units = scene.buffer.lease("w", 2)
    scene.deliver(units)
    given = [StepRewards((2, 3), (0.5, -1.0)), None]
    verdicts = [Verdict(1.0, steps=steps, scores={"r": Score(value=1.0)}) for steps in given]
    scene.buffer.scored({f"{unit.slot}.0.0": verdict for unit, verdict in zip(units, verdicts, strict=True)})
    batch = scene.buffer.compose()
    assert batch is not None
    table = scene.buffer.table(batch)
    assert table["step_ends"].to_pylist() == [[2, 3], None]
    assert table["step_rewards"].to_pylist() == [[0.5, -1.0], None]
    metrics = text_metrics(batch, max_completion_length=8)
    assert (metrics["reward/steps"], metrics["reward/step_mean"]) == (2.0, -0.25)
    scene.close()


# -- versions never mix in a group --------------------------------------------------------------


@dataclass
class Versions:
    """Answers with the next of its versions at each call; a value is its version. Notes whom it was asked about."""

    coming: list[int]
    asked: list[list[str]] = field(default_factory=list)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.asked.append([sample.id for sample in samples])
        version = self.coming.pop(0)
        return [Score(value=float(version), component="r", version=version) for _ in samples]


def arrived(folder: Path, versions: Sequence[int | None]) -> tuple[Scene, Batch]:
    """Return a batch of groups of two whose scores at arrival were given by these versions; None: a time-out."""
    scene = Scene(folder, groups=len(versions) // 2, members=2)
    units = scene.buffer.lease("w", len(versions))
    scene.deliver(units)
    for unit, version in zip(units, versions, strict=True):
        score = Score.invalid(ScoreStatus.TIMEOUT, "late", component="r", version=9)
        if version is not None:
            score = Score(value=float(version), component="r", version=version)
        scene.buffer.scored({f"{unit.slot}.0.0": Verdict(score.value or 0.0, scores={"r": score})})
    batch = scene.buffer.compose()
    assert batch is not None
    return scene, batch


def of_one_version(scene: Scene, component: Versions, scope: str = "sample") -> BatchScoring:
    replicas = HandleSet("r")
    replicas.attach(LocalHandle("r-0", component))
    wired = RewardGraph(
        {"r": RewardPart(replicas=replicas, deadline_s=5.0, scope=scope)}, Combine({"r": Term()}, ignore_invalid=["r"])
    )
    return BatchScoring(wired, payloads=scene.buffer.payloads, log=scene.ledger)


async def test_a_group_scored_by_two_versions_is_asked_again_as_a_whole_and_recorded_with_its_update(tmp_path: Path):
    scene, batch = arrived(tmp_path / "run", [3, 4, 3, 3])
    component = Versions([6])
    service = of_one_version(scene, component)
    scored = await service.scored(batch, 5.0)
    assert component.asked == [batch.ids[:2]], "the other group has one version, even if an older one"
    assert scene.buffer.table(scored)["reward"].to_pylist() == [6.0, 6.0, 3.0, 3.0]
    await service.stored(batch.version, 5.0)
    rows = read_stream(tmp_path / "run" / "ledger", "scores", SCORES).to_pylist()
    assert [(row["trajectory_id"], row["version"], row["update_version"]) for row in rows] == [
        (name, 6, 0) for name in batch.ids[:2]
    ]
    scene.close()


async def test_a_component_that_compares_the_batch_has_one_version_in_the_batch(tmp_path: Path):
    scene, batch = arrived(tmp_path / "run", [3, 3, 4, 4])
    component = Versions([6])
    await of_one_version(scene, component, "batch").scored(batch, 5.0)
    assert component.asked == [batch.ids]
    scene.close()


async def test_an_invalid_score_has_no_version_to_mix(tmp_path: Path):
    scene, batch = arrived(tmp_path / "run", [3, None])
    component = Versions([])
    assert await of_one_version(scene, component).scored(batch, 5.0) is batch and component.asked == []
    scene.close()


async def test_a_component_that_learns_faster_than_it_is_asked_fails_its_older_scores_by_name(tmp_path: Path):
    class Restless(Versions):
        def score(self, samples: Sequence[Sample]) -> list[Score]:
            first, *others = super().score(samples)
            return [first, *(Score(value=1.0, component="r", version=first.version + 1) for _ in others)]

    scene, batch = arrived(tmp_path / "run", [3, 4])
    component = Restless([5, 7, 9])
    service = of_one_version(scene, component)
    scored = await service.scored(batch, 5.0)
    assert len(component.asked) == 3 and component.coming == []
    older, newer = (scored.scores(row)["r"] for row in batch.rows)
    assert (older.status, older.version, newer.value, newer.version) == (ScoreStatus.ERROR, 9, 1.0, 10)
    assert older.detail.startswith("version 9 of 'r' scored it, and version 10 its group, 3 times")
    scene.close()


# -- schedules ----------------------------------------------------------------------------------


async def test_weights_are_those_of_the_update_that_consumes_whenever_its_samples_came(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=3)
    replicas = HandleSet("r")
    combine = Combine({"r": Term(weight=Linear(start=1.0, end=0.0, updates=2))})
    wired = RewardGraph({"r": RewardPart(replicas=replicas, deadline_s=5.0)}, combine)
    service = BatchScoring(wired, payloads=scene.buffer.payloads, log=scene.ledger)
    scene.finish(scene.buffer.lease("w", 6))  # all of them at version 0
    seen = []
    for _ in range(3):
        batch = scene.buffer.compose()
        assert batch is not None
        scored = await service.scored(batch, 5.0)
        seen.append(scene.buffer.table(scored)["reward"].to_pylist())
        scene.commit(scored)
    assert seen == [[0.0, 1.0], [0.0, 0.5], [0.0, 0.0]]
    scene.close()


class Fixture:
    def __init__(self, value: float) -> None:
        self._value = value

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(value=self._value) for _ in samples]


def config(**components: Mapping[str, Any]) -> RunConfig:
    sections = {name: RewardComponentConfig(component=dict(c)) for name, c in components.items()}
    return RunConfig(rewards=RewardsConfig(components=sections))


def pools(settings: RunConfig) -> dict[str, HandleSet]:
    return {name: HandleSet(name) for name in (*settings.rewards.components, INTRINSIC)}


def test_the_class_or_the_section_says_when_a_component_is_asked():
    settings = config(late={"target": f"{__name__}:AtBatch"}, early={"target": "numeric"})
    wired = rewards.build(settings, pools(settings))
    assert wired.batch_components == ("late",)
    settings = config(late={"target": f"{__name__}:AtBatch", "when": "arrival"})
    assert rewards.build(settings, pools(settings)).batch_components == ()


@pytest.mark.parametrize(
    ("components", "message"),
    [
        (
            {"late": {"target": f"{__name__}:AtBatch", "when": "never"}},
            "late.component.when is 'never'.*arrival, batch",
        ),
        (
            {"late": {"target": f"{__name__}:AtBatch"}, "x": {"target": f"{__name__}:Fixed"}},
            "'x' is scored at arrival, before",
        ),
        (
            {"late": {"target": f"{__name__}:AtBatch", "after": "x"}},
            r"late.component.after is 'x'; it must be a list; write \[x\]",
        ),
    ],
)
def test_an_impossible_moment_is_refused_by_name(components: dict[str, Any], message: str):
    settings = config(**components)
    with pytest.raises(ConfigError, match=message):
        rewards.build(settings, pools(settings))


def test_filters_need_a_reward_at_arrival():
    settings = config(late={"target": f"{__name__}:AtBatch"})
    settings.buffer = BufferConfig(filters=[{"target": "zero_variance"}])
    with pytest.raises(ConfigError, match=r"buffer\.filters is .* when samples arrive"):
        rewards.build(settings, pools(settings))

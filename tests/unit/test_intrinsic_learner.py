"""The reward learner with its annotators and scorers in one process, and what becomes of their faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from buffers.scores import Sample, ScoreStatus
from buffers.segments import read_stream
from buffers.tables import LABELS
from buffers.transport import LocalHandle
from configs.decision import AnnotationConfig, IntrinsicConfig
from configs.errors import RunError, StaleEpoch
from configs.schema import RunConfig
from rewards.intrinsic.labels import Item, Label
from rewards.intrinsic.learner import RewardLearner, build
from rewards.intrinsic.member import IntrinsicMember
from rewards.intrinsic.member import build as build_scorer
from rewards.intrinsic.met import Met


class Annotator:
    """Labels captions with "key" as helpful; of pairs, the one with more of them is better."""

    def __init__(self, spoil: Callable[[Sequence[Item]], Any] = lambda items: None) -> None:
        self.spoil = spoil
        self.asked: list[Item] = []

    async def annotate(self, items: Sequence[Item]) -> Any:
        self.asked += items
        spoiled = self.spoil(items)
        if asyncio.iscoroutine(spoiled):
            spoiled = await spoiled
        return [self.label(item) for item in items] if spoiled is None else spoiled

    def label(self, item: Item) -> Label:
        keys = [caption.count("key") for caption in item]
        return Label(item=item, value=float(keys[0] > 0) if len(item) == 1 else 0.5 + 0.5 * _sign(keys[0] - keys[1]))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def config(intrinsic: str = "retrieval", options: dict[str, Any] | None = None, **annotation: Any) -> RunConfig:
    settings = AnnotationConfig(**{"batch_size": 4, "deadline_s": 5.0, "held_out_fraction": 0.0, **annotation})
    exploration = IntrinsicConfig(annotation=settings)
    return RunConfig(intrinsic=intrinsic, intrinsics={intrinsic: options or {}}, exploration=exploration)


@asynccontextmanager
async def learner_of(settings: RunConfig, folder: Path) -> AsyncIterator[RewardLearner]:
    learner = build(settings, folder)
    learner._interval_s = 0.0  # a run leaves its scorers time; a test does not wait for it
    try:
        yield learner
    finally:
        await learner.close()


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(20.0):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never came: {what}")


def captions(*texts: str) -> Met:
    return Met(captions=dict.fromkeys(texts, 1))


def logged(folder: Path) -> list[dict[str, Any]]:
    return read_stream(folder / "intrinsic", "labels", LABELS).to_pylist()


async def join(learner: RewardLearner, settings: RunConfig, name: str) -> IntrinsicMember:
    """Add a scorer, as the supervisor does."""
    member = await build_scorer(settings, "intrinsic")
    learner.attach("reward.intrinsic", LocalHandle(name, member))
    member.attach("intrinsic_learner", LocalHandle("intrinsic_learner-0", learner))
    return member


async def vector(member: IntrinsicMember, *texts: str) -> tuple[float, ...]:
    [score] = await member.score([Sample(id="s", group="g", prompt="", completion="", captions=texts)])
    return score.vector


async def test_captions_come_back_as_rewards(tmp_path: Path):
    settings = config()
    async with learner_of(settings, tmp_path) as learner:
        member = await join(learner, settings, "reward.intrinsic-0")
        learner.attach("annotator", LocalHandle("annotator-0", Annotator()))
        assert await vector(member, "a key", "a wall", "") == (0.0, 0.0, 0.0)
        await until(lambda: member.stats()["version"] == 1, "version 1 at the scorer")
        assert await vector(member, "a key", "a wall", "") == (1.0, 0.0, 0.0)
        await until(lambda: "reward_lag_p50_s" in learner.stats(), "word that version 1 is in use")
        figures = learner.stats()
        assert {k: figures[k] for k in ("labels", "queue", "in_flight", "version")} == {
            "labels": 2, "queue": 0, "in_flight": 0, "version": 1,
        }  # fmt: skip
        assert figures["reward_lag_p50_s"] >= 0.0 and figures["coverage"] == 0.5 and figures["rss"] > 0
        learner.ping()
        member.ping()
        await member.close()


async def test_a_late_scorer_gets_the_newest_version(tmp_path: Path):
    settings = config()
    async with learner_of(settings, tmp_path) as learner:
        learner.attach("annotator", LocalHandle("annotator-0", Annotator()))
        learner.submit(captions("a key"))
        await until(lambda: learner.stats()["version"] == 1, "version 1")
        late = await join(learner, settings, "reward.intrinsic-7")
        await until(lambda: late.stats()["version"] == 1, "version 1 at the late scorer")
        assert await vector(late, "a key") == (1.0,)
        await late.close()


async def test_an_annotator_that_dies_loses_nothing_and_nothing_is_labelled_twice(tmp_path: Path):
    async with learner_of(config(), tmp_path) as learner:
        asked, dies = asyncio.Event(), Annotator(lambda items: asked.set() or asyncio.sleep(60.0))
        handle = LocalHandle("annotator-0", dies)
        learner.attach("annotator", handle)
        learner.submit(captions(*(f"key {i}" for i in range(6))))
        async with asyncio.timeout(20.0):
            await asked.wait()
        assert (learner.stats()["in_flight"], learner.stats()["queue"]) == (4, 2)
        handle.kill()
        learner.detach("annotator", "annotator-0")
        await until(lambda: learner.stats()["in_flight"] == 0, "the items back in the queue")
        assert learner.stats()["queue"] == 6
        learner.attach("annotator", LocalHandle("annotator-1", Annotator()))
        await until(lambda: learner.stats()["labels"] == 6, "all labels")
        assert learner.stats()["duplicates"] == 0
    assert sorted(row["item"][0] for row in logged(tmp_path)) == [f"key {i}" for i in range(6)]


@pytest.mark.parametrize(
    "answer",
    [
        lambda items: [],
        lambda items: "garbage",
        lambda items: [Label(item=("another",), value=1.0)] * len(items),
        lambda items: [Label(item=item, value=1.0) for item in reversed(items)],
        lambda items: 1 / 0,
        lambda items: [Label(item=item, status=ScoreStatus.ERROR, detail="no endpoint") for item in items],
    ],
    ids=["too few", "text", "other items", "other order", "raises", "faults alone"],
)
async def test_a_useless_answer_is_counted_and_its_items_are_asked_again(tmp_path: Path, answer: Callable[..., Any]):
    spoiled = [True, True]
    annotator = Annotator(lambda items: answer(items) if spoiled and spoiled.pop() else None)
    async with learner_of(config(), tmp_path) as learner:
        learner.attach("annotator", LocalHandle("annotator-0", annotator))
        learner.submit(captions("a key", "a wall"))
        await until(lambda: learner.stats()["labels"] == 2, "labels after two useless answers")
        assert learner.stats()["annotator_failures"] == 2
        assert "annotator-0" in learner.ping()["last_annotator_failure"]
    assert {(row["item"][0], row["value"]) for row in logged(tmp_path) if row["status"] == "ok"} == {
        ("a key", 1.0), ("a wall", 0.0),
    }  # fmt: skip


async def test_an_annotator_that_hangs_does_not_hold_up_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rewards.intrinsic.annotation.GRACE_S", 0.0)
    settings = config(deadline_s=0.05)
    async with learner_of(settings, tmp_path) as learner:
        hangs = Annotator(lambda items: asyncio.sleep(60.0))
        learner.attach("annotator", LocalHandle("annotator-0", hangs))
        learner.submit(captions("a key", "a wall"))
        await until(lambda: learner.stats()["annotator_failures"] >= 1, "a missed deadline")
        learner.attach("annotator", LocalHandle("annotator-1", Annotator()))
        await until(lambda: learner.stats()["labels"] == 2, "labels of the other annotator")


async def test_what_nobody_can_label_is_given_up(tmp_path: Path):
    annotator = Annotator(
        lambda items: [Label(item=item, status=ScoreStatus.ABSTAINED, reply="well...") for item in items]
    )
    async with learner_of(config(max_abstentions=2), tmp_path) as learner:
        learner.attach("annotator", LocalHandle("annotator-0", annotator))
        for _ in range(4):
            learner.submit(captions("a riddle"))
            await until(lambda: not learner.stats()["queue"] + learner.stats()["in_flight"], "an answer")
        figures = learner.stats()
    assert len(annotator.asked) == 2
    assert (figures["abstained"], figures["parse_failures"], figures["labels"], figures["version"]) == (2, 2, 0, 0)
    async with learner_of(config(max_abstentions=2), tmp_path) as again:
        again.submit(captions("a riddle"))
        assert again.stats()["queue"] == 0, "the log remembers what was given up"


async def test_no_label_is_asked_for_beyond_the_budget(tmp_path: Path):
    annotators = [Annotator(lambda items: asyncio.sleep(0.02)) for _ in range(3)]  # all at work at a time
    async with learner_of(config(budget=5, batch_size=2), tmp_path) as learner:
        learner.submit(captions(*(f"key {i}" for i in range(20))))
        for number, annotator in enumerate(annotators):
            learner.attach("annotator", LocalHandle(f"annotator-{number}", annotator))
        await until(lambda: learner.stats()["labels"] == 5, "the budget's labels")
        await asyncio.sleep(0.05)
    assert sum(len(annotator.asked) for annotator in annotators) == 5


async def test_a_failed_training_ends_the_process_not_silently(tmp_path: Path):
    async with learner_of(config(), tmp_path) as learner:
        learner._model.update = lambda evidence: 1 / 0  # type: ignore[method-assign]
        learner.attach("annotator", LocalHandle("annotator-0", Annotator()))
        learner.submit(captions("a key"))
        await until(lambda: learner._training.done(), "the end of training")
        with pytest.raises(RunError, match="training of Retrieval ended: ZeroDivisionError"):
            learner.ping()


async def test_a_rebuilt_learner_goes_on_from_its_version_and_labels(tmp_path: Path):
    async with learner_of(config(), tmp_path) as learner:
        learner.attach("annotator", LocalHandle("annotator-0", Annotator()))
        learner.submit(captions("a key", "a wall"))
        await until(lambda: learner.stats()["version"] == 1, "version 1")
    async with learner_of(config(), tmp_path) as again:
        figures = again.stats()
        assert (figures["version"], figures["labels"]) == (1, 2)
        annotator = Annotator()
        again.attach("annotator", LocalHandle("annotator-0", annotator))
        again.submit(captions("a key", "a door"))
        await until(lambda: again.stats()["labels"] == 3, "the one label that was missing")
        assert annotator.asked == [("a door",)]


async def test_pairs_are_ranked(tmp_path: Path):
    small = {"length": 99, "embedding": 8, "channels": 8, "hidden": 16, "learning_rate": 0.01}
    settings = config("ranking", small, batch_size=8)
    texts = [f"{word} {number}" for word in ("a key", "a wall") for number in range(6)]
    async with learner_of(settings, tmp_path) as learner:
        member, annotator = await join(learner, settings, "reward.intrinsic-0"), Annotator()
        learner.attach("annotator", LocalHandle("annotator-0", annotator))
        await vector(member, *texts)
        await until(lambda: learner.stats()["labels"] >= 40, "labels of pairs")
        await until(lambda: learner.stats().get("loss", 9.0) < 0.6, "a model that learned from them")
        served = member.stats()["version"]
        await until(lambda: member.stats()["version"] > served, "a later version")
        values = await vector(member, *texts)
        await member.close()
    assert all(len({*pair}) == 2 for pair in annotator.asked)
    assert len({frozenset(pair) for pair in annotator.asked}) == len(annotator.asked), "no pair twice, in any order"
    assert min(values[:6]) > max(values[6:])


async def test_observations_are_learned_from_without_any_label(tmp_path: Path):
    spec = EnvironmentSpec("toy", {"x": ArraySpec((2,), "float32")}, ActionSpec("discrete", (2,)))
    settings, fragment = config("rnd"), np.arange(10, dtype=np.float32).reshape(5, 2)
    learner = build(settings, tmp_path, lambda: spec)
    member = await build_scorer(settings, "intrinsic", lambda: spec)
    learner.attach("reward.intrinsic", LocalHandle("reward.intrinsic-0", member))
    member.attach("intrinsic_learner", LocalHandle("intrinsic_learner-0", learner))
    sample = Sample(id="s", group="g", prompt="", completion="", observations=spec.encode({"x": fragment}))
    assert (await member.score([sample]))[0].vector == (0.0,) * 4
    await until(lambda: member.stats()["version"] >= 1, "version 1 at the scorer")
    [score] = await member.score([sample])
    assert len(score.vector) == 4 and min(score.vector) > 0.0 and score.version >= 1
    await member.close()
    await learner.close()


async def test_a_scorer_that_did_not_take_a_version_is_offered_the_newest_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rewards.online.publication.RETRY_S", 0.01)
    taken: list[int] = []

    class Stubborn:
        refusals = 2

        def install(self, version: int, state: object) -> int:
            self.refusals -= 1
            if self.refusals >= 0:
                raise RunError("not now")
            taken.append(version)
            return version

    async with learner_of(config(), tmp_path) as learner:
        learner.attach("reward.intrinsic", LocalHandle("reward.intrinsic-0", Stubborn()))
        learner.attach("annotator", LocalHandle("annotator-0", Annotator()))
        learner.submit(captions("a key"))
        await until(lambda: taken, "the version")
        learner.ping()
    assert taken == [1]


async def test_a_learner_that_was_replaced_stores_nothing_more(tmp_path: Path):
    orphan = build(config(), tmp_path)
    async with learner_of(config(), tmp_path):
        orphan.attach("annotator", LocalHandle("annotator-0", Annotator()))
        orphan.submit(captions("a key"))
        await until(lambda: orphan._training.done(), "the end of the orphan's training")
        with pytest.raises(StaleEpoch, match="end this process"):
            orphan.ping()
        assert orphan.stats()["version"] == 0
    with pytest.raises(StaleEpoch):
        await orphan.close()
    assert logged(tmp_path) == []

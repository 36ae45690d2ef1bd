"""Annotators: rules, and the member that holds any annotator to its contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from buffers.epochs import begin_epoch
from buffers.scores import ScoreStatus
from configs.decision import AnnotationConfig
from configs.errors import ConfigError
from rewards.intrinsic.annotators import build_annotator
from rewards.intrinsic.annotators.member import AnnotatorMember, build
from rewards.intrinsic.annotators.scripted import Scripted
from rewards.intrinsic.label_store import LabelStore
from rewards.intrinsic.labels import Annotator, Item, Label

RULES = (
    {"match": "^you picked up .* key", "value": 1},
    {"match": "dropped", "value": None},
    {"match": "key", "value": 0.5},
)
KEY, DROPPED, OTHER_KEY, WALL = ("you picked up the red key",), ("you dropped the key",), ("a key",), ("a wall",)


def values(labels: Sequence[Label]) -> list[float | None]:
    return [label.value for label in labels]


async def test_the_first_rule_that_matches_wins():
    labels = await Scripted(rules=RULES).annotate([KEY, DROPPED, OTHER_KEY, WALL])
    assert values(labels) == [1.0, None, 0.5, 0.0]
    assert [label.item for label in labels] == [KEY, DROPPED, OTHER_KEY, WALL]


async def test_a_caption_without_a_value_is_abstained_and_says_so():
    (label,) = await Scripted(rules=RULES).annotate([DROPPED])
    assert label.status is ScoreStatus.ABSTAINED and "you dropped the key" in label.detail


async def test_without_a_default_unmatched_captions_get_no_label():
    assert values(await Scripted(rules=RULES, default=None).annotate([WALL])) == [None]


async def test_of_a_pair_the_caption_of_the_higher_value_is_better():
    pairs = [KEY + WALL, WALL + KEY, (*WALL, "grass"), KEY + DROPPED]
    assert values(await Scripted(rules=RULES).annotate(pairs)) == [1.0, 0.0, 0.5, None]


async def test_flipped_labels_repeat_and_are_as_many_as_asked_for():
    items = [(f"caption {n}",) for n in range(2000)]
    noisy = values(await Scripted(rules=[], flip=0.2).annotate(items))
    assert noisy == values(await Scripted(rules=[], flip=0.2).annotate(items))
    assert 350 < sum(v == 1.0 for v in noisy) < 450  # 400 expected, deviation 18
    assert noisy != values(await Scripted(rules=[], flip=0.2, seed=1).annotate(items))


async def test_flipped_labels_are_not_the_ones_that_are_held_out(tmp_path: Path):
    items = [(f"caption {n}",) for n in range(1000)]
    store = LabelStore(tmp_path, epoch=begin_epoch(tmp_path), held_out_fraction=0.5)
    labels = await Scripted(rules=[], flip=0.5, seed=1).annotate(items)
    store.add(labels, annotator="annotator-0", version=0, time=0.0)
    store.close()
    assert 0.35 < sum(value for _, value in store.held_out) / len(store.held_out) < 0.65


async def test_ties_stay_ties_and_abstentions_abstentions_when_labels_are_flipped():
    pairs = [KEY + WALL, (*WALL, "grass"), KEY + DROPPED]
    assert values(await Scripted(rules=RULES, flip=1.0).annotate(pairs)) == [0.0, 0.5, None]


async def test_a_call_takes_as_long_as_the_delay_says():
    loop = asyncio.get_running_loop()
    started = loop.time()
    await Scripted(rules=RULES, delay_s=0.05).annotate([KEY, WALL])
    assert loop.time() - started >= 0.05


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"rules": [{"match": "(", "value": 1}]}, r"rules\[0\].match"),
        ({"rules": [{"match": "a", "value": 2}]}, r"rules\[0\].value"),
        ({"rules": [{"match": "a"}]}, r"rules\[0\]"),
        ({"rules": [], "default": -1}, "default"),
        ({"rules": [], "delay_s": -1}, "delay_s"),
        ({"rules": [], "flip": 1.5}, "flip"),
        ({}, "lacks rules"),
        ({"rules": [], "flips": 1}, "flip"),
    ],
)
def test_a_wrong_setting_is_named(section: dict[str, Any], named: str):
    with pytest.raises(ConfigError, match=f"exploration.annotation.annotator.*{named}"):
        build_annotator(AnnotationConfig(annotator={"target": "scripted", **section}), seed=0)


class Custom:
    """An annotator whose behaviour a test gives."""

    def __init__(self, annotate: Any) -> None:
        self._annotate = annotate
        self.is_closed = False

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        return await self._annotate(items)

    async def close(self) -> None:
        self.is_closed = True


def member(annotate: Any, deadline_s: float = 5.0) -> AnnotatorMember:
    return AnnotatorMember("annotator-0", Custom(annotate), deadline_s)


async def test_a_member_counts_labels_by_status():
    hosted = await build(AnnotationConfig(annotator={"target": "scripted", "rules": RULES}), "annotator-0", 0)
    await hosted.annotate([KEY, DROPPED, WALL])
    await hosted.annotate([KEY])
    stats = hosted.ping()
    assert (stats["calls"], stats["ok"], stats["abstained"], stats["error"]) == (2, 3, 1, 0)
    await hosted.close()


async def test_an_annotator_that_raises_gives_errors_not_values():
    async def raising(items: Sequence[Item]) -> list[Label]:
        raise OSError("no route")

    labels = await member(raising).annotate([KEY, WALL])
    assert [(label.status, label.value) for label in labels] == [(ScoreStatus.ERROR, None)] * 2
    assert "no route" in labels[0].detail


async def test_an_annotator_with_wrong_settings_stops_the_call():
    async def wrong(items: Sequence[Item]) -> list[Label]:
        raise ConfigError("template asks about one caption")

    with pytest.raises(ConfigError, match="one caption"):
        await member(wrong).annotate([KEY])


async def test_an_annotator_that_hangs_times_out_and_leaves_no_task():
    async def hanging(items: Sequence[Item]) -> list[Label]:
        await asyncio.Event().wait()
        return []

    labels = await member(hanging, deadline_s=0.01).annotate([KEY, WALL])
    assert [label.status for label in labels] == [ScoreStatus.TIMEOUT] * 2
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    "wrong", [[], [Label(item=KEY, value=1.0)], [Label(item=WALL, value=1.0), Label(item=KEY, value=0.0)], None, [1, 0]]
)
async def test_labels_that_do_not_answer_the_items_in_order_are_refused(wrong: Any):
    async def mixed(items: Sequence[Item]) -> list[Label]:
        return wrong

    labels = await member(mixed).annotate([KEY, WALL])
    assert [label.status for label in labels] == [ScoreStatus.ERROR] * 2


async def test_nothing_asked_is_nothing_labelled():
    hosted = member(None)
    assert await hosted.annotate([]) == []
    await hosted.close()


def test_annotators_keep_to_the_protocol():
    annotator: Annotator = Scripted(rules=RULES)
    assert annotator

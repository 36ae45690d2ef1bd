"""Rewards for boxes against their catalogue oracles, slow references and exhaustive search."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.assignment import assignment
from rewards.verifiers.box_rewards import BoxCriteria, BoxDetection, BoxOverlap
from rewards.verifiers.boxes import Box, average_precision, giou, iou

SIDE = st.integers(0, 12)
BOXES = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), SIDE, SIDE, SIDE, SIDE)


def judged(component: Component, completion: str, boxes: Any) -> Score:
    sample = Sample(id="s", group="g", prompt="", completion=completion, metadata={"boxes": boxes})
    (score,) = component.score([sample])
    return score


def pixels(box: Box) -> set[tuple[int, int]]:
    return set(itertools.product(range(int(box.left), int(box.right)), range(int(box.top), int(box.bottom))))


def test_overlaps_are_those_of_the_oracles() -> None:
    gold = Box(0, 0, 10, 10)
    assert iou(gold, Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert giou(gold, Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert giou(gold, Box(20, 0, 30, 10)) == pytest.approx(-1 / 3)
    assert iou(gold, Box(10, 10, 0, 0)) == 0.0


@given(one=BOXES, other=BOXES)
def test_overlap_is_counted_in_pixels(one: Box, other: Box) -> None:
    common, union = pixels(one) & pixels(other), pixels(one) | pixels(other)
    expected = len(common) / len(union) if union else 0.0
    assert iou(one, other) == iou(other, one) == pytest.approx(expected)
    hull = pixels(Box(*map(min, one[:2], other[:2]), *map(max, one[2:4], other[2:4])))
    assert giou(one, other) == pytest.approx(expected - (len(hull) - len(union)) / len(hull) if hull else 0.0)


@given(
    costs=st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=1, max_size=5)
    )
)
def test_an_assignment_is_the_cheapest_of_all(costs: list[list[int]]) -> None:
    pairs = assignment(costs)
    rows, columns = len(costs), len(costs[0])
    size = min(rows, columns)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs) == size
    every = (
        sum(costs[r][c] for r, c in zip(chosen, order, strict=True))
        for chosen in itertools.combinations(range(rows), size)
        for order in itertools.permutations(range(columns), size)
    )
    assert sum(costs[r][c] for r, c in pairs) == min(every)
    assert assignment([]) == assignment([[]]) == []


def test_average_precision_by_hand() -> None:
    gold = [Box(0, 0, 10, 10, "cat"), Box(20, 0, 30, 10, "cat")]
    assert average_precision(gold, gold) == pytest.approx(1.0)
    # The first of two found: precision 1 up to recall 0.5, which are 51 of 101 recalls.
    assert average_precision(gold[:1], gold) == pytest.approx(51 / 101)
    # A box found twice is found once.
    assert average_precision([gold[0], gold[0]], gold) == pytest.approx(51 / 101)
    # A wrong one before it: precision 1/2 there.
    assert average_precision([Box(50, 50, 60, 60, "cat"), gold[0]], gold) == pytest.approx(51 / 101 / 2)
    # IoU 0.8 counts at 0.50, 0.55, ..., 0.80: 7 of 10 thresholds.
    assert average_precision([Box(0, 0, 10, 8, "cat")], gold[:1]) == pytest.approx(0.7)
    assert average_precision([gold[0]._replace(label="dog")], gold[:1]) == 0.0
    # One of two labels.
    assert average_precision([gold[0]], [gold[0], gold[1]._replace(label="dog")]) == pytest.approx(0.5)


@pytest.mark.parametrize("junk", range(4))
def test_spraying_boxes_scales_the_reward_by_n_over_n_plus_m(junk: int) -> None:
    gold = [[0, 0, 10, 10], [20, 0, 30, 10]]
    sprayed = gold + [[100 * (i + 1), 0, 100 * (i + 1) + 5, 5] for i in range(junk)]
    assert judged(BoxDetection(), json.dumps(sprayed), gold).value == pytest.approx(2 / (2 + junk))


def test_the_count_factor_of_the_s080_oracle() -> None:
    # mAP 0.8, two expected, five given: 0.32.
    gold = [Box(0, 0, 10, 10), Box(20, 0, 30, 10)]
    given = [*gold, *(Box(100 * i, 0, 100 * i + 5, 5) for i in range(1, 4))]
    score = judged(BoxDetection(), json.dumps([list(b[:4]) for b in given]), [list(b[:4]) for b in gold])
    assert score.value == pytest.approx(average_precision(given, gold) * 2 / 5)
    assert 0.8 * min(1.0, 2 / 5) == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("completion", "boxes", "expected"),
    [("[]", [], 1.0), ("[]", [[0, 0, 1, 1]], 0.0), ("[[0, 0, 1, 1]]", [], 0.0), ("none", [], 0.0)],
)
def test_detection_of_nothing(completion: str, boxes: Any, expected: float) -> None:
    assert judged(BoxDetection(), completion, boxes).value == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("[5, 0, 15, 10]", 1 / 3),
        ('```json\n[{"bbox_2d": [5, 0, 15, 10], "label": "cat"}]\n```', 1 / 3),
        ('{"bbox_2d": [0, 0, 10, 10]}', 1.0),
        ('[{"bbox_2d": [0, 0, 10]}]', 0.0),
        ("[1e999, 0, 15, 10]", 0.0),
        ("[NaN, 0, 15, 10]", 0.0),
        ("[" + "9" * 5000 + ", 0, 15, 10]", 0.0),
        ("[true, false, true, true]", 0.0),
        ("[" * 100_000, 0.0),
        ('"text"', 0.0),
        ("", 0.0),
    ],
)
def test_a_box_is_read_from_json(completion: str, expected: float) -> None:
    assert judged(BoxOverlap(), completion, [[0, 0, 10, 10]]).value == pytest.approx(expected)


@pytest.mark.parametrize(
    "completion",
    [
        "[false, false, true, true]",
        "[-1e308, -1e308, 1e308, 1e308]",
        "[0, 0, " + "9" * 400 + ", 1]",
        "[0, 0, 1e999, 1]",
    ],
)
def test_what_is_no_number_is_no_corner(completion: str) -> None:
    for measure, worst in (("iou", 0.0), ("giou", -1.0)):
        assert judged(BoxOverlap(measure=measure), completion, [[0, 0, 1, 1]]).value == worst
    assert judged(BoxCriteria(), completion, [[0, 0, 1, 1]]).vector == (0.0, 0.0, 0.0)


def test_more_boxes_than_can_be_matched_are_wrong() -> None:
    for component in (BoxDetection(), BoxCriteria()):
        score = judged(component, json.dumps([[0, 0, 1, 1]] * 65), [[0, 0, 1, 1]])
        assert (score.value, score.detail) == (0.0, "65 boxes")


@pytest.mark.parametrize(
    ("settings", "precision", "recall"),
    [({}, 1.6 / 3, 0.5), ({"low": 0.75, "high": 0.9, "hit": 0.75}, 0.82 / 3, 0.0)],
)
def test_criteria_are_those_of_the_s069_oracle(settings: dict[str, float], precision: float, recall: float) -> None:
    assert BoxCriteria(**settings)._criteria([0.82, 0.60, 0.40], 4) == pytest.approx((precision, recall))


def test_criteria_of_whole_answers() -> None:
    gold = [[0, 0, 100, 100], [200, 0, 300, 100]]
    perfect = judged(BoxCriteria(), json.dumps(gold[::-1]), gold)
    assert (perfect.value, perfect.vector) == (3.0, (1.0, 1.0, 1.0))
    half = judged(BoxCriteria(), json.dumps([gold[0], "x"]), gold)
    assert half.vector == (0.0, 1.0, 0.5)
    assert judged(BoxCriteria(), "[]", gold).vector == (0.0, 0.0, 0.0)
    assert judged(BoxCriteria(), "[]", []).vector == (1.0, 1.0, 1.0)
    assert judged(BoxCriteria(), "[[0, 0, 1, 1]]", []).vector == (0.0, 0.0, 0.0)


def test_a_box_is_compared_with_the_one_of_its_label() -> None:
    large, small = [0, 0, 100, 100], [0, 0, 100, 60]
    boxes = [{"bbox_2d": large, "label": "cat"}, {"bbox_2d": small, "label": "dog"}]
    swapped = [{"bbox_2d": small, "label": "cat"}, {"bbox_2d": large, "label": "dog"}]
    assert judged(BoxCriteria(), json.dumps(boxes[::-1]), boxes).vector == (1.0, 1.0, 1.0)
    assert judged(BoxCriteria(), json.dumps(swapped), boxes).vector == pytest.approx((1.0, 0.6, 1.0))


@pytest.mark.parametrize("component", [BoxOverlap(), BoxDetection(), BoxCriteria()])
def test_without_readable_references_all_abstain(component: Component) -> None:
    for boxes in (None, "x", [[0, 0, 1]]):
        assert judged(component, "[0, 0, 1, 1]", boxes).status is ScoreStatus.ABSTAINED


@pytest.mark.parametrize(
    ("component", "settings", "message"),
    [
        (BoxOverlap, {"measure": "dice"}, "measure is 'dice', which is none"),
        (BoxCriteria, {"low": 0.9}, "low, high are 0.9, 0.75; they must rise"),
        (BoxCriteria, {"scale": 0.0}, "scale is 0.0; it must be > 0"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name(component: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component(**settings)

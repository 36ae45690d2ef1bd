"""Rewards for finding things in images: one box, all boxes, and criteria that harden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score, ScoreStatus
from configs.errors import nearest
from rewards.base import Component
from rewards.verifiers.assignment import assignment
from rewards.verifiers.boxes import Box, average_precision, giou, iou, parse, read

__all__ = ["BoxCriteria", "BoxDetection", "BoxOverlap", "quantised"]

MAX_BOXES = 64
"""More in one completion are wrong, whatever they are: matching takes their number to the third power."""
_MEASURES = {"iou": iou, "giou": giou}


@dataclass(frozen=True, kw_only=True)
class _BoxReward(Component):
    answer_tag: str = ""
    """The boxes are in the last `<tag>...</tag>`; empty takes the whole completion."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        expected = read(sample.metadata.get("boxes"))
        known = [box for box in expected if box is not None]
        if len(known) < len(expected):
            detail = f"{sample.id}: metadata.boxes must be a list of [left, top, right, bottom] or {{bbox_2d, label}}"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        given = parse(sample, self.answer_tag)
        if given is None or len(given) > MAX_BOXES:
            return Score(value=0.0, detail="no JSON" if given is None else f"{len(given)} boxes")
        return self._compare(given, known)

    def _compare(self, given: Sequence[Box | None], expected: Sequence[Box]) -> Score:
        raise TypeError(f"{type(self).__name__} does not implement _compare")


@dataclass(frozen=True, kw_only=True)
class BoxOverlap(_BoxReward):
    """Intersection over union of the completion's first box with the reference's (`giou`: the generalised one).

    Boxes are JSON, `[left, top, right, bottom]` or `{"bbox_2d": [...], "label": ...}`, alone or in a list; those
    of the reference are `boxes` of the metadata.

        component: {target: box_overlap, measure: iou, answer_tag: answer}

    Source: the REC accuracy of VLM-R1, arXiv:2504.07615; GIoU from arXiv:1902.09630.
    """

    measure: str = "iou"

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES:
            raise ValueError(f"measure is {self.measure!r}, which is none{nearest(self.measure, _MEASURES)}")

    def _compare(self, given: Sequence[Box | None], expected: Sequence[Box]) -> Score:
        worst = -1.0 if self.measure == "giou" else 0.0
        box = given[0] if given else None
        return Score(value=worst if box is None or not expected else _MEASURES[self.measure](box, expected[0]))


@dataclass(frozen=True, kw_only=True)
class BoxDetection(_BoxReward):
    """Mean average precision of all boxes, times min(1, expected / given), so that spraying boxes does not pay.

    1.0 where there is nothing and nothing is found, 0.0 where only one of them is empty. Boxes count in the order
    in which they are written.

        component: {target: box_detection, answer_tag: answer}

    Source: the odLength reward of VLM-R1, arXiv:2504.07615 and its grpo_jsonl.py.
    """

    def _compare(self, given: Sequence[Box | None], expected: Sequence[Box]) -> Score:
        if not given or not expected:
            return Score(value=float(not given and not expected))
        precision = average_precision([box for box in given if box is not None], expected)
        return Score(value=precision * min(1.0, len(expected) / len(given)))


@dataclass(frozen=True, kw_only=True)
class BoxCriteria(_BoxReward):
    """Format plus precision plus recall of matched boxes, quantised by criteria; its vector has the three.

    Boxes are matched at the least sum of |corners| / scale - GIoU - [same label]. precision: mean of the matches'
    GIoU, 0 below `low` and 1 above `high`. recall: share of expected boxes whose match exceeds `hit`, quantised at
    0.5 and 0.75. The paper hardens low, high, hit from (0.5, 0.75, 0.5) to (0.75, 0.9, 0.75) at step 1500.

        component: {target: box_criteria, low: 0.5, high: 0.75, hit: 0.5}

    Source: Vision-R1, arXiv:2503.18013 and its visionr1_qwen.py.
    """

    low: float = 0.5
    high: float = 0.75
    hit: float = 0.5
    scale: float = 1000.0
    """Of coordinates: the side of an image, in their unit."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low, high are {self.low:g}, {self.high:g}; they must rise within [0, 1]; try 0.5, 0.75")
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; it must be > 0; give the side of an image")

    def _compare(self, given: Sequence[Box | None], expected: Sequence[Box]) -> Score:
        boxes = [box for box in given if box is not None]
        wellformed = float(bool(given) and len(boxes) == len(given)) if expected else float(not boxes)
        if not boxes or not expected:
            both_empty = float(not boxes and not expected)
            return Score(value=wellformed + 2 * both_empty, vector=(wellformed, both_empty, both_empty))
        costs = [[self._cost(box, other) for other in expected] for box in boxes]
        precision, recall = self._criteria([giou(boxes[i], expected[j]) for i, j in assignment(costs)], len(expected))
        return Score(value=wellformed + precision + recall, vector=(wellformed, precision, recall))

    def _criteria(self, qualities: Sequence[float], expected: int) -> tuple[float, float]:
        """Return precision and recall of matches with these GIoUs."""
        precision = sum(quantised(quality, self.low, self.high) for quality in qualities) / len(qualities)
        return precision, quantised(sum(quality > self.hit for quality in qualities) / expected, 0.5, 0.75)

    def _cost(self, box: Box, other: Box) -> float:
        distance = sum(abs(a - b) for a, b in zip(box[:4], other[:4], strict=True)) / self.scale
        return distance - giou(box, other) - float(box.label == other.label)


def quantised(score: float, low: float, high: float) -> float:
    """Return 0 below `low`, 1 above `high`, and the score itself between them."""
    return 0.0 if score < low else 1.0 if score > high else score

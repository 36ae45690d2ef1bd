"""Boxes in images: reading them from text, their overlap, and average precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from buffers.scores import Sample
from rewards.verifiers.extract import last_code_block, last_tagged

__all__ = ["Box", "average_precision", "giou", "iou", "parse", "read"]

IOU_THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
_Choose = Callable[[float, float], float]
RECALLS = tuple(step / 100 for step in range(101))


class Box(NamedTuple):
    """A rectangle in any unit, x to the right and y downwards, and what it holds."""

    left: float
    top: float
    right: float
    bottom: float
    label: str = ""

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


def read(value: Any) -> list[Box | None]:
    """Return a box for every item of a JSON value, None where one is no box.

    An item is `[left, top, right, bottom]` or `{"bbox_2d": [...], "label": ...}`; one alone needs no list.
    """
    items = value if isinstance(value, list) and not _is_corners(value) else [value]
    return [_box(item) for item in items]


def parse(sample: Sample, answer_tag: str) -> list[Box | None] | None:
    """Return the boxes of a completion's last code block, or of its answer; None if that is no JSON."""
    text = last_tagged(sample.completion, answer_tag) if answer_tag else sample.completion
    try:
        return read(json.loads(last_code_block(text or "").strip()))
    except (ValueError, RecursionError):
        return None


def iou(one: Box, other: Box) -> float:
    """Return intersection over union, in [0, 1]; of two empty boxes 0."""
    union = one.area + other.area - _common(one, other)
    return _common(one, other) / union if union > 0 else 0.0


def giou(one: Box, other: Box) -> float:
    """Return generalised intersection over union, in [-1, 1].

    Source: arXiv:1902.09630 algorithm 1.
    """
    hull = _combined(one, other, min, max).area
    union = one.area + other.area - _common(one, other)
    return iou(one, other) - (hull - union) / hull if hull > 0 else 0.0


def average_precision(given: Sequence[Box], expected: Sequence[Box]) -> float:
    """Return COCO's average precision of boxes in order of confidence: over labels, IoU 0.50:0.05:0.95, 101 recalls.

    Source: arXiv:1405.0312 and its evaluation code; labels are those of `expected`.
    """
    labels = sorted({box.label for box in expected})
    found = [
        _precision_over_recall([b for b in given if b.label == label], [b for b in expected if b.label == label], least)
        for label in labels
        for least in IOU_THRESHOLDS
    ]
    return sum(found) / len(found) if found else 0.0


def _precision_over_recall(given: Sequence[Box], expected: Sequence[Box], least: float) -> float:
    free, hits, curve = set(range(len(expected))), 0, []
    for rank, box in enumerate(given, 1):
        best = max(free, key=lambda i: iou(box, expected[i]), default=None)
        if best is not None and iou(box, expected[best]) >= least:
            free.remove(best)
            hits += 1
        curve.append((hits / len(expected), hits / rank))
    return sum(max((p for recall, p in curve if recall >= wanted), default=0.0) for wanted in RECALLS) / len(RECALLS)


def _common(one: Box, other: Box) -> float:
    return _combined(one, other, max, min).area


def _combined(one: Box, other: Box, low: _Choose, high: _Choose) -> Box:
    return Box(
        low(one.left, other.left), low(one.top, other.top), high(one.right, other.right), high(one.bottom, other.bottom)
    )


def _box(item: Any) -> Box | None:
    corners: Any
    corners, label = (item.get("bbox_2d"), item.get("label", "")) if isinstance(item, dict) else (item, "")
    if not _is_corners(corners):
        return None
    left, top, right, bottom = corners
    return Box(float(left), float(top), float(right), float(bottom), str(label))


def _is_corners(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(c, int | float) and not isinstance(c, bool) and abs(c) <= 1e9 for c in value)
    )

"""Transforms: what is done to a component's score before it counts; pure functions of Score -> Score.

    rewards:
      components:
        judge:
          component: {target: my_package:Judge}
          transforms: [{target: clip, low: -1.0, high: 1.0}, {target: scale, factor: 0.5}]

They are applied in their order to valid scores alone. What is recorded and shown stays the raw score, so
that a replay, or another graph, may transform it anew. To add one: a frozen dataclass with
`__call__(score) -> Score` that keeps status and provenance (`dataclasses.replace`), and a line here. One
that has no finite answer raises ValueError: the score is then invalid, and its text says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.registry import construct
from rewards.combine import Transform

__all__ = ["TRANSFORMS", "build_transforms"]

TRANSFORMS = {
    "clip": "rewards.transforms.elementwise:Clip",
    "log": "rewards.transforms.elementwise:Log",
    "power": "rewards.transforms.elementwise:Power",
    "scale": "rewards.transforms.elementwise:Scale",
    "step_clip": "rewards.transforms.steps:StepClip",
    "step_delta": "rewards.transforms.steps:StepDelta",
    "step_minimum": "rewards.transforms.steps:StepMinimum",
    "threshold": "rewards.transforms.elementwise:Threshold",
}


def build_transforms(sections: Sequence[Mapping[str, Any]], where: str) -> tuple[Transform, ...]:
    """Return the chain of a component.

    Raises:
      ConfigError: an unknown transform, or a value that one refuses.
    """
    return tuple(construct(TRANSFORMS, section, f"{where}[{i}]") for i, section in enumerate(sections))

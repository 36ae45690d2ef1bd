"""What a verifier says of one text."""

from __future__ import annotations

from typing import Any

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component

__all__ = ["abstains", "sample", "value"]


def sample(completion: str = "", answer: str = "", **fields: Any) -> Sample:
    return Sample(id="s", group="g", prompt="", completion=completion, answer=answer, **fields)


def value(component: Component, completion: str, answer: str = "", **metadata: Any) -> float | None:
    (score,) = component.score([sample(completion, answer, metadata=metadata)])
    return score.value


def abstains(component: Component, completion: str, answer: str = "", **metadata: Any) -> Score:
    (score,) = component.score([sample(completion, answer, metadata=metadata)])
    assert score.status is ScoreStatus.ABSTAINED and score.value is None
    return score

"""The inside of the sandbox for `rewards.verifiers.reasoning_gym`: imported there only, heavy imports first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

# Importing the package registers its generators.
import reasoning_gym

__all__ = ["judge"]


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """Score `item["answer"]` for `item["entry"]` of the generator `item["dataset"]`."""
    return {"value": float(_score_answer(item["dataset"])(item["answer"], item["entry"]))}


@functools.cache
def _score_answer(dataset: str) -> Callable[[str, dict[str, Any]], float]:
    score_answer: Callable[[str, dict[str, Any]], float] = reasoning_gym.factory.get_score_answer_fn(dataset)
    return score_answer

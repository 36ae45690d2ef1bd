"""Reward for keeping to a format: required tags in order, or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from buffers.scores import Sample, Score
from rewards.base import Component
from rewards.verifiers.child import ChildPool

__all__ = ["Format", "judge", "tags_in_order"]

_CHILDREN = ChildPool("rewards.verifiers.format:judge")


@dataclass(frozen=True, kw_only=True)
class Format(Component):
    """1.0 where the completion has every tag once and in order and matches the pattern, else 0.0.

    A regular expression can take exponential time and holds the interpreter meanwhile, so patterns
    are matched in a child process; tags are not.

        component: {target: format, tags: [think, answer]}

    Source: the format reward of DeepSeek-R1, arXiv:2501.12948 sec. 2.2.2.
    """

    tags: Sequence[str] = ()
    """Names, for instance [think, answer]: `<think>...</think>` and then `<answer>...</answer>`."""
    pattern: str = ""
    """Regular expression that must match the whole completion; dots match newlines."""
    deadline_s: float = 1.0
    """For matching one sample."""

    def __post_init__(self) -> None:
        if isinstance(self.tags, str) or not all(re.fullmatch(r"[\w-]+", tag) for tag in self.tags):
            raise ValueError(f"tags is {self.tags!r}; it must be a list of names without brackets; try [think, answer]")
        if not self.tags and not self.pattern:
            raise ValueError("tags and pattern are both empty; give at least one of them")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be > 0; 1 is plenty for a sane pattern")
        try:
            re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"pattern is {self.pattern!r}, no regular expression: {error}; correct it") from error

    def warm(self, concurrency: int) -> None:
        """Start the children that match patterns."""
        if self.pattern:
            _CHILDREN.warm(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample.completion) for sample in samples]

    def _judge(self, text: str) -> Score:
        if not tags_in_order(self.tags, text):
            return Score(value=0.0)
        if not self.pattern:
            return Score(value=1.0)
        return _CHILDREN.judge({"pattern": self.pattern, "text": text}, self.deadline_s)


def tags_in_order(tags: Sequence[str], text: str) -> bool:
    """Return whether each `<tag>...</tag>` occurs exactly once, each after the one before."""
    end = 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return False
        start = text.find(opening, end)
        end = text.find(closing, start)
        if start < 0 or end < 0:
            return False
    return True


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """Match `item["pattern"]` against `item["text"]`; runs in the child."""
    return {"value": float(re.fullmatch(item["pattern"], item["text"], re.DOTALL) is not None)}

"""Rules as the reward, without an annotator between: the baseline that shows what learning and delay cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.intrinsic.base import IntrinsicModel

__all__ = ["Script"]


@dataclass(kw_only=True)
class Script(IntrinsicModel):
    """What the scripted annotator would say of a caption, at once: the first rule that matches wins.

    Source: this project; an upper bound for retrieval with the same rules.
    """

    rules: Sequence[Mapping[str, Any]]
    """[{match: regular expression, value: 0 to 1}], as of the annotator `scripted`."""
    default: float = 0.0
    """Of captions that no rule matches."""
    _rules: list[tuple[re.Pattern[str], float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if wrong := [rule for rule in self.rules if set(rule) != {"match", "value"}]:
            raise ValueError(f'rules have the keys match and value, got {wrong[0]!r}; try {{match: "key", value: 1}}')
        try:
            self._rules = [(re.compile(rule["match"]), _value(rule["value"])) for rule in self.rules]
        except re.error as error:
            raise ValueError(f"rules: {error.pattern!r} is no regular expression: {error}; correct it") from error

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self._of(caption) for caption in inputs], np.float64)

    def _of(self, caption: str) -> float:
        return next((value for pattern, value in self._rules if pattern.search(caption)), self.default)


def _value(value: float | None) -> float:
    """Return a rule's value; null, which gives an annotator's item no label, abstains."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"rules: a value is {value}; it must lie in [0, 1] or be null; 1 is helpful")
    return float("nan") if value is None else float(value)

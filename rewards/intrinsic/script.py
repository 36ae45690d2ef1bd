"""Rules as the reward, without an annotator between: the baseline that shows what learning and delay cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.intrinsic.base import IntrinsicModel
from rewards.intrinsic.rules import Rules

__all__ = ["Script"]


@dataclass(kw_only=True)
class Script(IntrinsicModel):
    """What the scripted annotator would say of a caption, at once: the first rule that matches wins.

    Source: this project; an upper bound for retrieval with the same rules.
    """

    rules: Sequence[Mapping[str, Any]]
    """[{match: regular expression, value: 0 to 1 or null}], as of the annotator `scripted`."""
    default: float | None = 0.0
    """Of captions that no rule matches."""
    _rules: Rules = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rules = Rules(self.rules, self.default)

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        """Return the values; NaN, which abstains, where the annotator would give no label."""
        return np.array([self._rules.value(caption) for caption in inputs], np.float64)

"""The labels themselves as the reward."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rewards.intrinsic.base import Evidence, IntrinsicModel
from rewards.online.tensors import State

__all__ = ["Retrieval"]


@dataclass(kw_only=True)
class Retrieval(IntrinsicModel):
    """A caption's own label, exact, and `unlabelled` where it has none: no generalisation, no parameters.

    Version 0 scores every caption as unlabelled. Labels held out for accuracy are looked up too, since
    nothing is fitted to them.

    Source: ONI-retrieval, arXiv:2410.23022 sec. 3.
    """

    asks: ClassVar[int] = 1
    learns: ClassVar[bool] = True

    unlabelled: float | None = 0.0
    """What a caption earns before its label is there; 0 is the paper's rule. None: the score is
    `abstained`, which suits samples that are one caption, where a missing value is better than a wrong one."""
    _table: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        missing = math.nan if self.unlabelled is None else self.unlabelled
        return np.array([self._table.get(caption, missing) for caption in inputs], np.float64)

    def update(self, evidence: Evidence) -> dict[str, float]:
        self._table = {item[0]: value for item, value in (*evidence.labels, *evidence.held_out)}
        self.version += 1
        return {"helpful": sum(v > 0.5 for v in self._table.values()) / max(len(self._table), 1)}

    def state(self) -> State:
        captions = json.dumps(list(self._table)).encode()
        return {"captions": np.frombuffer(captions, np.uint8), "values": np.array(list(self._table.values()))}

    def load(self, version: int, state: State) -> None:
        captions = json.loads(state["captions"].tobytes())
        self._table = dict(zip(captions, state["values"].tolist(), strict=True))
        self.version = version

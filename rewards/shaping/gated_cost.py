"""Reward for being right, and for being cheap only where right."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from buffers.scores import Sample, Score
from rewards.base import Component
from rewards.shaping.earlier import earlier_values, require_named

__all__ = ["GatedCost", "cheapness"]


@dataclass(frozen=True, kw_only=True)
class GatedCost(Component):
    """(1 - share) outcome + share cheapness where the outcome is above 0, else the outcome alone.

    So what is cheap and wrong earns nothing. Cheapness compares the square root of a sample's cost with those of
    the last `window` samples: 1 at their 5th percentile or below, 0 at their 95th or above. Statistics belong to a
    replica, so give it one. The cost is minus the score of a component such as `usage`. What breaks the format
    stops before, by a gate of the run:

        component: {target: gated_cost, after: [correct, cost], outcome: correct, cost: cost, share: 0.6}

    Source: Router-R1, arXiv:2506.09033, and its main_ppo.py and qa_em.py.
    """

    after: Sequence[str]
    outcome: str
    cost: str
    share: float = 0.6
    """Of cheapness in the reward, 0 to 1; the paper goes up to 0.9."""
    window: int = 1000
    _costs: OrderedDict[str, float] = field(init=False, repr=False, compare=False, default_factory=OrderedDict)
    """Square roots by sample: one that is scored again counts once."""
    _lock: Any = field(init=False, repr=False, compare=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        require_named(self.after, outcome=self.outcome, cost=self.cost)
        if not (0 <= self.share <= 1 and self.window >= 1):
            given = f"share and window are {self.share} and {self.window}"
            raise ValueError(f"{given}; 0 <= share <= 1 and window >= 1 must hold; try 0.6 and 1000")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        told = earlier_values(sample, (self.outcome, self.cost))
        if isinstance(told, Score):
            return told
        outcome = told[self.outcome]
        cheap = self._cheapness(sample.id, -told[self.cost])
        return Score(value=outcome * (1 - self.share) + cheap * self.share if outcome > 0 else outcome, vector=(cheap,))

    def _cheapness(self, sample: str, cost: float) -> float:
        with self._lock:
            self._costs[sample] = math.sqrt(max(cost, 0.0))
            if len(self._costs) > self.window:
                self._costs.popitem(last=False)
            return cheapness(self._costs[sample], list(self._costs.values()))


def cheapness(root: float, known: Sequence[float]) -> float:
    """Return 1 - clip((root - low) / (high - low), 0, 1) of a root of a cost, 0.5 where low is high.

    Args:
      known: roots of recent costs; low and high are their 5th and 95th percentile, or their extremes if fewer than 2.

    Source: qa_em.py of Router-R1, arXiv:2506.09033.
    """
    low, high = np.percentile(known, [5, 95]) if len(known) > 1 else (known[0], known[0])
    return 0.5 if high - low < 1e-8 else float(1 - np.clip((root - low) / (high - low), 0.0, 1.0))

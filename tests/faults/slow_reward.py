"""A verifier that is always busy, so that whoever kills its server kills it mid-work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from buffers.scores import Sample, Score
from rewards.base import Component


@dataclass(frozen=True, kw_only=True)
class SlowLength(Component):
    """Rewards short completions, slowly."""

    pause_s: float = 0.1
    modulus: int = 3

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        time.sleep(self.pause_s)
        return [Score(value=float(sample.num_tokens % self.modulus)) for sample in samples]

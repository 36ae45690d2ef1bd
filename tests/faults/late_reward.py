"""A verifier whose first samples come so late that they are too old: what `staleness_policy=drop` is for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from buffers.scores import Sample, Score
from rewards.base import Component


@dataclass(frozen=True, kw_only=True)
class LateLength(Component):
    """Rewards `target_tokens`; the first call is answered only after `overtaken_by` other samples."""

    overtaken_by: int
    target_tokens: int
    lengths: list[int] = field(default_factory=list)
    overtaken: asyncio.Event = field(default_factory=asyncio.Event)

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        is_first = not self.lengths
        self.lengths.extend(sample.num_tokens for sample in samples)
        if len(self.lengths) - len(samples) >= self.overtaken_by:
            self.overtaken.set()
        if is_first:
            await self.overtaken.wait()  # the call's deadline bounds it
        return [Score(value=-abs(sample.num_tokens - self.target_tokens)) for sample in samples]

"""A reward with a known cost and known faults, for measuring what the pools around it make of them."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from buffers.scores import Sample, Score
from rewards.base import Component

__all__ = ["FaultyReward"]


@dataclass(frozen=True, kw_only=True)
class FaultyReward(Component):
    """1.0 after `latency_s`; some calls never answer, some raise, and one replica does nothing but hang."""

    latency_s: float
    timeout_share: float = 0.0
    error_share: float = 0.0
    hung: str = ""
    """A file that does not exist yet: the replica that creates it hangs. Empty: none does."""
    hangs: list[bool] = field(default_factory=list)

    def warm(self, concurrency: int) -> None:
        """Find out whether this replica is the one that hangs."""
        if self.hung:
            try:
                os.close(os.open(self.hung, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            self.hangs.append(True)

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
        draw = random.random()
        if self.hangs or draw < self.timeout_share:
            await asyncio.sleep(3600.0)  # the deadline of the call ends it
        if draw < self.timeout_share + self.error_share:
            raise RuntimeError("injected")
        await asyncio.sleep(self.latency_s)
        return [Score(value=1.0) for _ in samples]

"""Lanes whose actions are computed in another process: while one half's are, the other half steps.

    step: answer of half a -> its environments step -> the next question of half a -> the same of half b

With `environment.halves: 1` the environments stand still until their answer is there.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from actors.lane_rollouts import LaneRollouts, Places
from actors.policy_engine import Acted
from buffers.environment_spec import Observations

__all__ = ["SharedLaneRollouts"]


class SharedLaneRollouts(LaneRollouts):
    """`LaneRollouts` over a `SharedPolicy`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._asked: dict[int, tuple[Places, Observations, asyncio.Task[tuple[Acted, int]]]] = {}
        """half -> lanes, what they showed, and the answer to come"""

    async def step(self) -> None:
        """Advance one half of the lanes by one step, and ask what it does next."""
        half = self._next_half()
        if half in self._asked:
            lanes, observations, answer = self._asked.pop(half)
            acted, version = await answer
            began = time.perf_counter()
            self._act(lanes, observations, acted, version)
            self._receive(lanes)
            self.engine.stats.busy_s += time.perf_counter() - began
        if (due := self._due(half)) is not None:
            shown, state, noise = self._inputs(due)
            asking = self.engine.act(shown, state, noise)
            self._asked[half] = due, shown, asyncio.get_running_loop().create_task(asking)
        await asyncio.sleep(0)  # the question leaves before the other half steps; exchanges are answered

    async def close(self) -> None:
        """Release the environments; answers that are still to come are not waited for."""
        for _, _, answer in self._asked.values():
            answer.cancel()
        await super().close()

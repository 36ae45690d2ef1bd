"""The newest version of a reward model, on its way to every scorer."""

from __future__ import annotations

import asyncio

from buffers.transport import Handle, HandleSet
from configs.errors import RunError
from rewards.online.loops import MemberLoops, Signal
from rewards.online.tensors import State

__all__ = ["Publication"]

IDLE_S = 5.0
RETRY_S = 1.0
"""Until a scorer that did not take a version is offered the newest one again."""


class Publication:
    """Gives each scorer of a pool each newest version; those that join later, the newest one."""

    def __init__(self, scorers: HandleSet, deadline_s: float) -> None:
        self.version = 0
        """The newest one; 0 is what scorers begin with."""
        self._state: State = {}
        self._deadline_s = deadline_s
        self._made = Signal()
        self._loops = MemberLoops(scorers, self._serve)

    def publish(self, version: int, state: State) -> None:
        """Offer a version from now on; it must be on disk already."""
        self.version, self._state = version, state
        self._made.send()

    def raise_failure(self) -> None:
        """Raise what ended a loop, see `MemberLoops`."""
        self._loops.raise_failure()

    async def close(self) -> None:
        """End the loops."""
        await self._loops.close()

    async def _serve(self, scorer: Handle) -> None:
        """Give one scorer each newest version, until cancelled."""
        held = 0
        while True:
            version, state = self.version, self._state
            if version <= held:
                await self._made.wait(IDLE_S)
                continue
            try:
                held = await scorer.call(
                    "install", version, state, deadline_s=self._deadline_s, awaiting=f"receipt of version {version}"
                )
            except RunError:
                await asyncio.sleep(RETRY_S)  # dead ones are detached; the others are offered it again

"""The inference pool, as one rollout worker sees it: an engine whose weights are elsewhere.

It is also what tells the worker of new versions, in the place of a receiver: units wait in the worker until the
weights that they ask for are at its inference actor, so that no request waits for them together with lanes whose
fragments must end before these weights can be made.

X waits for Y: an answer, or word of a new version, waits for this worker's inference actor; when that one is
lost, for another, or for its replacement. One deadline bounds it all; then the worker ends and says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.engines.base import EngineStats
from actors.policy_engine import BEFORE_ANYTHING, Acted
from buffers.transport import Handle, HandleSet
from configs.errors import MemberLost

__all__ = ["SharedPolicy"]

FOLLOW_S = 10.0
"""Longest that one question for newer weights waits for them."""


class SharedPolicy:
    """Asks one inference actor, and others when that one is gone."""

    def __init__(self, network: Any, *, seat: int, deadline_s: float) -> None:
        """Ask nobody yet: `members` is filled by the supervisor.

        Args:
          network: of the same policy section; only its sizes are read.
          seat: of the worker; decides whom it asks.
          deadline_s: for one answer, the replacement of a lost actor included.
        """
        self.network, self.version, self.stats = network, BEFORE_ANYTHING, EngineStats()
        self.members = HandleSet("inference")
        self._seat, self._deadline_s = seat, deadline_s
        self._newest = BEFORE_ANYTHING
        """Known to be at an inference actor."""
        self._following: asyncio.Task[None] | None = None

    async def act(
        self, observations: Mapping[str, NDArray[Any]], state: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> tuple[Acted, int]:
        """Return what `PolicyEngine.act` does, and the version that did it; versions never go back.

        Raises:
          DeadlineExceeded: no inference actor answered in time.
        """
        began = time.perf_counter()
        awaiting = f"actions of {len(state)} lanes"
        acted, version = await self._ask("act", observations, state, noise, self._newest, awaiting=awaiting)
        self._newest = max(self._newest, version)
        self.stats.steps += 1
        self.stats.sampled_tokens += len(state)
        self.stats.longest_gap_s = max(self.stats.longest_gap_s, time.perf_counter() - began)
        return acted, version

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Units that wait for `version` may begin; the weights themselves are not here."""
        self.version = version
        self.stats.weight_loads += 1

    # -- as a receiver --------------------------------------------------------------------------

    def poll(self) -> int | None:
        """See `Receiver.poll`; raises what ended the search for newer versions."""
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())
        elif self._following.done():
            self._following.result()
        return self._newest if self._newest > self.version else None

    def take(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Return the newest version, without tensors."""
        return self._newest, {}

    def close(self) -> None:
        """Stop asking."""
        if self._following is not None:
            self._following.cancel()

    # -- asking ---------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            awaiting = f"weights after version {self._newest}"
            found = await self._ask("newer", self._newest, FOLLOW_S, awaiting=awaiting)
            self._newest = max(self._newest, found)

    async def _ask(self, method: str, *args: Any, awaiting: str) -> Any:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._deadline_s
        while True:
            member = await self._member(ends - loop.time())
            try:
                return await member.call(method, *args, deadline_s=ends - loop.time(), awaiting=awaiting)
            except MemberLost:
                self.members.detach(member.name)  # its replacement has another name

    async def _member(self, deadline_s: float) -> Handle:
        while not len(self.members):
            await self.members.changed(deadline_s)
        present = sorted(self.members, key=lambda member: member.name)
        return present[self._seat % len(present)]

"""A program that ends its process on one slot, as a library that crashes does; for tests of quarantine."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass

from actors.programs.policy import Policy
from actors.programs.single_turn import SingleTurn
from actors.rollouts import EnginePolicy
from buffers.trajectory import Task, Trajectory

__all__ = ["POISON", "Poisonous"]

POISON = (0, 3, 1)
"""Epoch, task and sample of the slot."""


@dataclass(frozen=True, kw_only=True)
class Poisonous(SingleTurn):
    """`single_turn`, but for one slot."""

    async def rollout(self, task: Task, policy: Policy, rng: random.Random) -> list[Trajectory]:
        if isinstance(policy, EnginePolicy) and policy.slot[1:] == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().rollout(task, policy, rng)

"""One prompt, one completion."""

from __future__ import annotations

import random
from dataclasses import dataclass

from actors.programs.builder import TrajectoryBuilder, encode_prompt
from actors.programs.policy import Policy
from buffers.trajectory import Task, Trajectory

__all__ = ["SingleTurn"]


@dataclass(frozen=True, kw_only=True)
class SingleTurn:
    """The policy continues the prompt until it stops or the budget is spent."""

    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""

    async def rollout(self, task: Task, policy: Policy, rng: random.Random) -> list[Trajectory]:
        builder = TrajectoryBuilder(task, policy, encode_prompt(policy, task, chat=self.chat))
        builder.sampled(await policy.generate(builder.tokens))
        return [builder.finish()]

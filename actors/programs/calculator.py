"""The policy may ask a calculator, reads the result in its context and goes on."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from actors.programs.arithmetic import evaluate
from actors.programs.builder import TrajectoryBuilder, encode_prompt
from actors.programs.policy import Policy
from buffers.trajectory import Kind, Task, Trajectory
from learners.models.tokenizer import encode

__all__ = ["Calculator"]


@dataclass(frozen=True, kw_only=True)
class Calculator:
    """Two turns by default: an expression between `open` and `close`, its result, then the answer.

    A model of single characters takes single characters: `{open: "[", close: "]", result: "{value};"}`.
    """

    open: str = "<calc>"
    close: str = "</calc>"
    result: str = "<result>{value}</result>"
    """What is appended after a call."""
    error: str = "error"
    """The `value` of an expression that cannot be evaluated; a character model must know its characters."""
    calls: int = 1
    """Calls that are answered; later ones are ordinary text."""
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""

    def __post_init__(self) -> None:
        if not self.open or not self.close:
            raise ValueError(f"open is {self.open!r} and close {self.close!r}; both must hold a character; try [ and ]")
        if "{value}" not in self.result:
            raise ValueError(f"result is {self.result!r}; it must contain {{value}}; try {{value}} alone")
        if self.calls < 1:
            raise ValueError(f"calls is {self.calls}; it must be >= 1; single_turn makes none")

    async def rollout(self, task: Task, policy: Policy, rng: random.Random) -> list[Trajectory]:
        builder = TrajectoryBuilder(task, policy, encode_prompt(policy, task, chat=self.chat))
        for _ in range(self.calls):
            text = await self._turn(builder, policy, (self.close,))
            expression = self._asked(text)
            if expression is None:
                return [builder.finish()]
            result = self.result.replace("{value}", self._answer(expression))
            tokens = list(encode(policy.tokenizer, result))
            if builder.room(inserting=len(tokens)) < 1:
                builder.truncate()
                return [builder.finish()]
            builder.inserted(tokens, Kind.TOOL, "tool")
        await self._turn(builder, policy, ())
        return [builder.finish()]

    async def _turn(self, builder: TrajectoryBuilder, policy: Policy, stop: tuple[str, ...]) -> str:
        stops = policy.sampling.stop + stop
        sampling = dataclasses.replace(policy.sampling, max_completion_length=builder.room(), stop=stops)
        return builder.sampled(await policy.generate(builder.tokens, sampling=sampling))

    def _asked(self, text: str) -> str | None:
        """Return the expression that ends a turn, or None where the turn ends otherwise."""
        before, closed, _ = text.rpartition(self.close)
        _, opened, expression = before.rpartition(self.open)
        return expression if closed and opened else None

    def _answer(self, expression: str) -> str:
        try:
            return evaluate(expression)
        except ValueError:
            return self.error

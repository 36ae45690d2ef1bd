"""What a rollout program is given, and what it must return."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.engines.base import Completion
from buffers.identity import Slot
from buffers.trajectory import Sampling, Task, Trajectory

__all__ = ["Policy", "Rollout", "Tokenizer"]


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that programs use."""

    def __hash__(self) -> int: ...

    @property
    def chat_template(self) -> str | None: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, tokenize: bool = True, add_generation_prompt: bool = False
    ) -> str: ...


class Policy(Protocol):
    """One attempt's access to the model; carries the attempt's identity and its random numbers.

    The k-th call of `generate` draws from a stream keyed by (run seed, slot, branch, k), so a
    program that asks the same questions in the same order gets the same answers.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def slot(self) -> Slot: ...

    @property
    def attempt(self) -> int: ...

    @property
    def sampling(self) -> Sampling:
        """How `generate` draws unless told otherwise."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens of prompt and completions together that fit."""
        ...

    async def generate(self, tokens: Sequence[int], *, sampling: Sampling | None = None) -> Completion:
        """Sample a continuation of `tokens`.

        Raises:
          ValueError: `tokens` plus `max_completion_length` exceeds `context_length`.
        """
        ...

    async def logprobs(self, sequences: Sequence[Sequence[int]], model: str = "current") -> list[NDArray[np.float32]]:
        """Return for each sequence of T tokens [T] float32, nats: the log-probability of each token; 0 at t = 0.

        Args:
          model: current | reference | another alias or version that the engine holds.
        """
        ...

    def fork(self, branch: int) -> Policy:
        """Return a policy of the same attempt whose calls draw from the streams of another branch."""
        ...


class Rollout(Protocol):
    """A rollout program."""

    async def rollout(self, task: Task, policy: Policy, rng: random.Random) -> list[Trajectory]:
        """Work on one task.

        Args:
          rng: keyed by the attempt's slot; the only randomness a program may use of its own.

        Returns:
          At least one trajectory; several (the branches of a tree) have distinct `node` numbers.

        Raises:
          RunError: this task cannot be worked on; the slot fails with the message as its reason.
        """
        ...

"""The contract of decision policies: networks that both the actors and the learner execute.

Dimensions: N environments, B fragments, T steps, A action columns, P distribution parameters,
S numbers of recurrent state (0 without memory).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["ActionDistribution", "DecisionNetwork"]


class ActionDistribution(Protocol):
    """How parameters become actions; without state, so that both sides agree."""

    parameters: int
    """P"""
    noise: int
    """Uniform numbers that one sample takes."""

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return actions [N, A] float32: a function of parameters [N, P] and noise [N, noise] in [0, 1)."""
        ...

    def greedy(self, parameters: Tensor) -> Tensor:
        """Return the most probable actions [N, A]."""
        ...

    def logprobs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return [...] nats of actions [..., A] under parameters [..., P], summed over columns."""
        ...

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return [...] nats."""
        ...


class DecisionNetwork(Protocol):
    """A torch module; its parameters and buffers are what is published."""

    state_size: int
    """S"""
    distribution: ActionDistribution

    def step(self, observations: dict[str, Tensor], state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act: return (parameters [N, P], values [N], state [N, S]) for observations [N, *shape], state [N, S]."""
        ...

    def unroll(self, observations: dict[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Learn: return (parameters [B, T, P], values [B, T]) for observations [B, T, *shape].

        Args:
          state: [B, S] before the first step.
          starts: [B, T] bool, True where an episode begins: its state is forgotten before that step.
        """
        ...

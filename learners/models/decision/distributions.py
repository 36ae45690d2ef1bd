"""Action distributions: parameters and uniform noise in, actions out; nothing is drawn in here.

Dimensions: N environments, A action columns, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from buffers.environment_spec import ActionSpec
from configs.errors import ConfigError
from learners.models.decision.base import ActionDistribution

__all__ = ["Categoricals", "Gaussian", "distribution_of"]

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Categoricals:
    """One independent choice per column; parameters are the logits of all columns side by side."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self.parameters, self.noise = sum(sizes), len(sizes)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return actions by the inverse of the distribution function: one uniform number each."""
        columns = zip(self._columns(parameters), noise.unbind(-1), strict=True)
        return torch.stack([inverse_cdf(logits, uniform) for logits, uniform in columns], -1)

    def greedy(self, parameters: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in self._columns(parameters)], -1).float()

    def logprobs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        chosen = actions.long()
        return sum_of(
            [
                logits.log_softmax(-1).gather(-1, chosen[..., i : i + 1]).squeeze(-1)
                for i, logits in enumerate(self._columns(parameters))
            ]
        )

    def entropy(self, parameters: Tensor) -> Tensor:
        nats = [logits.log_softmax(-1) for logits in self._columns(parameters)]
        return sum_of([-(column.exp() * column).sum(-1) for column in nats])

    def _columns(self, parameters: Tensor) -> Sequence[Tensor]:
        return (parameters,) if len(self._sizes) == 1 else parameters.split(self._sizes, -1)


class Gaussian:
    """Independent normal columns; parameters are A means, then A logarithms of deviations.

    Actions are not clipped: the environment's side clips what it is given, so that the log-probability stays true.
    """

    def __init__(self, columns: int) -> None:
        self.parameters, self.noise = 2 * columns, 2 * columns

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return actions by Box-Muller: two uniform numbers each. Source: Box and Muller 1958, eq. 1."""
        mean, log_deviation = parameters.chunk(2, -1)
        radius, turn = noise.float().chunk(2, -1)
        # log1p(-u) is finite for every u in [0, 1).
        normal = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * turn)
        return mean + log_deviation.exp() * normal

    def greedy(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, -1)[0]

    def logprobs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_deviation = parameters.chunk(2, -1)
        deviations = (actions - mean) * torch.exp(-log_deviation)
        return (-0.5 * deviations.square() - log_deviation - HALF_LOG_TAU).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters.chunk(2, -1)[1] + (0.5 + HALF_LOG_TAU)).sum(-1)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return [N] float32: the first choice whose cumulative probability exceeds the noise.

    Args:
      logits: [N, n].
      uniform: [N] in [0, 1).
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    # Rounding may leave the total below 1; measured against it, every number finds a possible choice.
    return (cumulative <= uniform[..., None] * cumulative[..., -1:]).sum(-1).float()


def sum_of(columns: list[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.stack(columns).sum(0)


def distribution_of(actions: ActionSpec) -> ActionDistribution:
    """Return the distribution that fits an environment's actions.

    Raises:
      ConfigError: there is none for this kind.
    """
    if actions.kind in ("discrete", "multi_discrete"):
        return Categoricals(actions.sizes)
    if actions.kind == "continuous":
        return Gaussian(actions.columns)
    known = "discrete, multi_discrete, continuous"
    raise ConfigError(f"environment actions are {actions.kind!r}; a policy knows {known}; wrap the environment")

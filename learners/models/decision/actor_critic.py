"""The actor-critic that all built-in policies are: an encoder, perhaps a memory, and two heads.

Dimensions: K trunks (1: actor and critic share all features), N rows, B fragments, T steps, H features,
P distribution parameters, S numbers of recurrent state.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from buffers.environment_spec import EnvironmentSpec
from learners.models.decision.distributions import Gaussian, distribution_of
from learners.models.decision.trunk import orthogonal

__all__ = ["ActorCritic", "Encoder"]


class Encoder(Protocol):
    """A module from observations {name: [N, *shape]} to features [K, N, H]."""

    features: int
    """H"""
    trunks: int
    """K, 1 or 2"""

    def __call__(self, observations: dict[str, Tensor]) -> Tensor: ...


class ActorCritic(nn.Module):
    """A `DecisionNetwork` made of parts."""

    def __init__(self, encoder: Encoder, spec: EnvironmentSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.distribution = distribution_of(spec.actions)
        continuous = isinstance(self.distribution, Gaussian)
        # The deviation of a continuous action is a weight of its own, the same in every state.
        self.log_deviation = nn.Parameter(torch.zeros(spec.actions.columns)) if continuous else None
        self.heads = Heads(encoder.features, self.distribution.parameters // (1 + continuous), encoder.trunks)
        self.state_size = 0

    def step(self, observations: dict[str, Tensor], state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act; see `DecisionNetwork.step`."""
        features = self.encoder(observations)
        return (*self._heads(features), state)

    def unroll(self, observations: dict[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Learn; see `DecisionNetwork.unroll`."""
        features = self.encoder({name: value.flatten(0, 1) for name, value in observations.items()})
        parameters, values = self._heads(features)
        return parameters.unflatten(0, starts.shape), values.unflatten(0, starts.shape)

    def _heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        parameters, values = self.heads(features)
        if self.log_deviation is not None:
            parameters = torch.cat([parameters, self.log_deviation.expand_as(parameters)], -1)
        return parameters, values


class Heads(nn.Module):
    """Policy and value; in one product where they read the same features."""

    def __init__(self, features: int, outputs: int, trunks: int) -> None:
        super().__init__()
        self._outputs, self._shared = outputs, trunks == 1
        sizes = [outputs + 1] if self._shared else [outputs, 1]
        self.layers = nn.ModuleList([nn.Linear(features, size) for size in sizes])
        rows = torch.cat([torch.empty(outputs, features), torch.empty(1, features)])
        orthogonal(rows[:outputs], 0.01)  # a policy that starts out uniform explores
        orthogonal(rows[outputs:], 1.0)
        for layer, block in zip(self.layers, rows.split(sizes), strict=True):
            nn.init.zeros_(layer.bias)
            layer.weight.data.copy_(block)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return ([N, P'], [N]) of features [K, N, H]."""
        if self._shared:
            both = self.layers[0](features[0])
            return both[:, : self._outputs], both[:, self._outputs]
        return self.layers[0](features[0]), self.layers[1](features[1])[:, 0]

"""The actor-critic that all built-in policies are: an encoder, perhaps a memory, and two heads.

Dimensions: K trunks (1: actor and critic share all features), N rows, B fragments, T steps, H features,
P distribution parameters, S numbers of recurrent state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from buffers.environment_spec import EnvironmentSpec
from configs.errors import one_of, require
from configs.registry import construct
from learners.models.decision.cores import CORES, Core
from learners.models.decision.distributions import Gaussian, distribution_of
from learners.models.decision.trunk import orthogonal

__all__ = ["ActorCritic", "Encoder", "trunks_of"]


class Encoder(Protocol):
    """A module from observations {name: [N, *shape]} to features [K, N, H]."""

    features: int
    """H"""
    trunks: int
    """K, 1 or 2"""

    def __call__(self, observations: dict[str, Tensor]) -> Tensor: ...


def trunks_of(value: str | None, core: Mapping[str, Any] | None) -> int:
    """Return K of a policy's settings `value` (separate | shared; None: separate unless there is a memory) and `core`.

    Raises:
      ConfigError: a memory, which actor and critic share, with separate trunks.
    """
    value = value or ("shared" if core else "separate")
    one_of("policy.value", value, ("separate", "shared"))
    rule = "be shared with a core: actor and critic have one memory"
    require(value == "shared" or not core, "policy.value", value, rule, "leave it out")
    return 2 if value == "separate" else 1


class ActorCritic(nn.Module):
    """A `DecisionNetwork` made of parts."""

    def __init__(self, encoder: Encoder, spec: EnvironmentSpec, core: Mapping[str, Any] | None = None) -> None:
        """Put heads, and the memory of a section `policy.core`, behind an encoder.

        Raises:
          ConfigError: an unknown core, or actions that no distribution fits.
        """
        super().__init__()
        self.encoder = encoder
        self.core: Core | None = construct(CORES, core, "policy.core", inputs=encoder.features) if core else None
        self.distribution = distribution_of(spec.actions)
        continuous = isinstance(self.distribution, Gaussian)
        # The deviation of a continuous action is a weight of its own, the same in every state.
        self.log_deviation = nn.Parameter(torch.zeros(spec.actions.columns)) if continuous else None
        features = self.core.features if self.core else encoder.features
        self.heads = Heads(features, self.distribution.parameters // (1 + continuous), encoder.trunks)
        self.state_size = self.core.state_size if self.core else 0

    def step(self, observations: dict[str, Tensor], state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act; see `DecisionNetwork.step`."""
        features = self.encoder(observations)
        if self.core is not None:
            output, state = self.core.advance(self.core.project(features[0]), state)
            features = output[None]
        return (*self._read(features), state)

    def unroll(self, observations: dict[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Learn; see `DecisionNetwork.unroll`."""
        features = self.encoder({name: value.flatten(0, 1) for name, value in observations.items()})
        if self.core is not None:
            projected = self.core.project(features[0]).unflatten(0, starts.shape)
            features = self.core.unroll(projected, state, starts).flatten(0, 1)[None]
        parameters, values = self._read(features)
        return parameters.unflatten(0, starts.shape), values.unflatten(0, starts.shape)

    def _read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        parameters, values = self.heads(features)
        if self.log_deviation is not None:
            parameters = torch.cat([parameters, self.log_deviation.expand_as(parameters)], -1)
        return parameters, values


class Heads(nn.Module):
    """Policy and value; in one product where they read the same features."""

    def __init__(self, features: int, outputs: int, trunks: int) -> None:
        super().__init__()
        self._outputs = outputs
        self.first = nn.Linear(features, outputs + (trunks == 1))
        self.value = nn.Linear(features, 1) if trunks == 2 else None
        nn.init.zeros_(self.first.bias)
        orthogonal(self.first.weight.data[:outputs], 0.01)  # a policy that starts out uniform explores
        orthogonal(self.first.weight.data[outputs:] if self.value is None else self.value.weight.data, 1.0)
        if self.value is not None:
            nn.init.zeros_(self.value.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return ([N, P'], [N]) of features [K, N, H]."""
        first = self.first(features[0])
        if self.value is None:
            return first[:, : self._outputs], first[:, self._outputs]
        return first, self.value(features[1])[:, 0]

"""Policies over vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from buffers.environment_spec import EnvironmentSpec
from learners.models.decision.actor_critic import ActorCritic, trunks_of
from learners.models.decision.inputs import FlatInputs
from learners.models.decision.trunk import Trunk

__all__ = ["mlp"]


def mlp(
    spec: EnvironmentSpec,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    value: str | None = None,
    core: Mapping[str, Any] | None = None,
    byte_scale: float = 255.0,
) -> ActorCritic:
    """A perceptron over all observations, flattened.

    Args:
      hidden: units of each layer.
      activation: tanh | relu | elu
      value: separate (a trunk of its own) | shared; None: separate unless there is a core.
      core: memory, for example {target: gru, size: 128}.
      byte_scale: what uint8 observations are divided by.

    Raises:
      ConfigError: an argument is out of range.
    """
    inputs = FlatInputs(spec.observations, byte_scale)
    trunk = Trunk(inputs.features, hidden, trunks=trunks_of(value, core), activation=activation)
    return ActorCritic(VectorEncoder(inputs, trunk), spec, core)


class VectorEncoder(nn.Module):
    """Flattened observations through a trunk."""

    def __init__(self, inputs: FlatInputs, trunk: Trunk) -> None:
        super().__init__()
        self.inputs, self.trunk = inputs, trunk
        self.features, self.trunks = trunk.features, trunk.trunks

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return [K, N, H]."""
        return self.trunk(self.inputs(observations))

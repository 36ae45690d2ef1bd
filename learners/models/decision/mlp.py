"""Policies over vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from buffers.environment_spec import EnvironmentSpec
from configs.errors import one_of
from learners.models.decision.actor_critic import ActorCritic
from learners.models.decision.inputs import FlatInputs
from learners.models.decision.trunk import Trunk

__all__ = ["mlp"]


def mlp(
    spec: EnvironmentSpec,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    value: str = "separate",
    byte_scale: float = 255.0,
) -> ActorCritic:
    """A perceptron over all observations, flattened.

    Args:
      hidden: units of each layer.
      activation: tanh | relu | elu
      value: separate (a trunk of its own) | shared
      byte_scale: what uint8 observations are divided by.

    Raises:
      ConfigError: an argument is out of range.
    """
    one_of("policy.value", value, ("separate", "shared"))
    trunks = 2 if value == "separate" else 1
    return ActorCritic(VectorEncoder(spec, hidden, trunks, activation, byte_scale), spec)


class VectorEncoder(nn.Module):
    """Flattened observations through a trunk."""

    def __init__(
        self, spec: EnvironmentSpec, hidden: Sequence[int], trunks: int, activation: str, byte_scale: float
    ) -> None:
        super().__init__()
        self.inputs = FlatInputs(spec.observations, byte_scale)
        self.trunk = Trunk(self.inputs.features, hidden, trunks=trunks, activation=activation)
        self.features, self.trunks = self.trunk.features, trunks

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return [K, N, H]."""
        return self.trunk(self.inputs(observations))

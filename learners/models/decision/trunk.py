"""Fully connected layers, for one trunk or for two side by side (actor and critic) in the same kernels.

Dimensions: K trunks, N rows, H units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from configs.errors import one_of, require

__all__ = ["ACTIVATIONS", "Trunk", "orthogonal"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": nn.functional.elu,
}


def orthogonal(weight: Tensor, gain: float) -> None:
    """Fill [out, in] with orthonormal rows or columns times a gain. Source: arXiv:1312.6120 sec. 3."""
    nn.init.orthogonal_(weight, gain)


class Trunk(nn.Module):
    """K multi-layer perceptrons over the same input; a first layer of all, then batched ones."""

    def __init__(self, inputs: int, hidden: Sequence[int], *, trunks: int, activation: str) -> None:
        """Make layers of `hidden` units, orthogonal with gain sqrt(2).

        Raises:
          ConfigError: no layer, or an unknown activation.
        """
        super().__init__()
        one_of("policy.activation", activation, tuple(ACTIVATIONS))
        require(len(hidden) > 0 and min(hidden) > 0, "policy.hidden", hidden, "list sizes > 0", "[64, 64] is usual")
        self._activation, self.trunks, self.features = ACTIVATIONS[activation], trunks, hidden[-1]
        self.first = nn.Linear(inputs, trunks * hidden[0])
        self.weights = nn.ParameterList([torch.empty(trunks, a, b) for a, b in itertools.pairwise(hidden)])
        self.biases = nn.ParameterList([torch.zeros(trunks * b) for b in hidden[1:]])
        nn.init.zeros_(self.first.bias)
        for block in (*self.first.weight.data.chunk(trunks), *(w for weight in self.weights for w in weight.data)):
            orthogonal(block, math.sqrt(2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [K, N, H] features of [N, F] inputs."""
        hidden = self._activation(self.first(inputs)).unflatten(-1, (self.trunks, -1)).transpose(0, 1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = self._activation(torch.baddbmm(bias.view(self.trunks, 1, -1), hidden, weight))
        return hidden

"""Pictures and grids on their way into a network.

Dimensions: N rows, C channels, Y rows and X columns of cells, E numbers of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import require
from learners.models.decision.trunk import ACTIVATIONS, orthogonal

__all__ = ["CellEmbedding", "Convolutions"]

Filters = Sequence[Sequence[int]]
"""(channels, kernel, stride) of each layer."""


class Convolutions(nn.Module):
    """Convolutions without padding, flattened at the end."""

    def __init__(self, channels: int, height: int, width: int, filters: Filters, activation: str) -> None:
        """Make the layers of `filters`, orthogonal with gain sqrt(2).

        Raises:
          ConfigError: a filter is malformed, or larger than what the layer before leaves of the picture.
        """
        super().__init__()
        self._activation, layers = ACTIVATIONS[activation], []
        for number, entry in enumerate(filters):
            key = f"policy.filters[{number}]"
            require(len(entry) == 3 and min(entry) >= 1, key, entry, "be [channels, kernel, stride]", "try [32, 3, 1]")
            out, kernel, stride = entry
            rule = f"fit into the {height} x {width} cells that are left"
            require(kernel <= min(height, width), key, entry, rule, "use a smaller kernel or fewer layers")
            layers.append(nn.Conv2d(channels, out, kernel, stride))
            channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.layers = nn.ModuleList(layers)
        self.features = channels * height * width
        for layer in layers:
            orthogonal(layer.weight.data, math.sqrt(2))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, picture: Tensor) -> Tensor:
        """Return [N, C * Y * X] of a picture [N, C, Y, X]."""
        for layer in self.layers:
            picture = self._activation(layer(picture))
        return picture.flatten(1)


class CellEmbedding(nn.Module):
    """A learned vector for each value of each channel, summed over the channels of a cell."""

    def __init__(self, channels: int, choices: int, size: int) -> None:
        """Make tables for values 0 to `choices - 1`; a larger value counts as the largest."""
        super().__init__()
        require(choices >= 2, "policy.choices", choices, "be >= 2", "16 suits MiniGrid")
        require(size >= 1, "policy.embedding", size, "be >= 1", "16 suits MiniGrid")
        self._choices = choices
        self.table = nn.Parameter(torch.randn(channels * choices, size) / math.sqrt(channels))
        self.register_buffer("offsets", torch.arange(channels) * choices, persistent=False)

    def forward(self, cells: Tensor) -> Tensor:
        """Return [N, E, Y, X] of integers [N, Y, X, C]."""
        offsets: Tensor = self.get_buffer("offsets")
        entries = cells.long().clamp_(max=self._choices - 1).add_(offsets)
        # Not embedding_bag: on a CPU its backward pass takes several times as long.
        return F.embedding(entries, self.table).sum(-2).permute(0, 3, 1, 2)

"""Observations on their way into a network: normalised floats, scaled bytes, all in one row.

Dimensions: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from buffers.environment_spec import ArraySpec
from configs.errors import ConfigError

__all__ = ["FlatInputs", "Normaliser"]

BOUND = 10.0
"""Largest normalised observation, in deviations; what everyone uses since OpenAI Baselines."""
EPSILON = 1e-8


class Normaliser(nn.Module):
    """(x - mean) / deviation, clipped; the identity until `observe` was called.

    The statistics are buffers, so that they are published, loaded and stored with the weights.
    """

    mean: Tensor
    scale: Tensor
    bound: Tensor
    count: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("bound", torch.tensor(torch.inf))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Return normalised [N, F]."""
        return torch.clamp((values - self.mean) * self.scale, -self.bound, self.bound)

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Merge rows [N, F] into mean and variance.

        Source: Chan, Golub and LeVeque 1983, eq. 2.1 (updating by pairs).
        """
        rows, seen = values.double(), self.count.clone()
        added, total = len(rows), seen + len(rows)
        gap = rows.mean(0) - self.mean.double()
        known = torch.where(seen > 0, self.scale.double() ** -2 - EPSILON, 0.0) * seen
        squares = known + rows.var(0, correction=0) * added + gap.square() * seen * added / total
        self.mean += (gap * added / total).float()
        self.scale.copy_((squares / total + EPSILON).rsqrt())
        self.bound.fill_(BOUND)
        self.count.copy_(total)


class FlatInputs(nn.Module):
    """All observations of a step in one row of float32: normalised floats first, then scaled integers."""

    def __init__(self, observations: Mapping[str, ArraySpec], byte_scale: float) -> None:
        """Divide what is uint8 by `byte_scale`; other integers and booleans stay as they are.

        Raises:
          ConfigError: `byte_scale` is not positive.
        """
        super().__init__()
        if byte_scale <= 0:
            raise ConfigError(f"policy.byte_scale is {byte_scale}; it must be > 0; 255 suits images")
        sizes = {name: int(np.prod(spec.shape, dtype=np.int64)) for name, spec in observations.items()}
        kinds = {name: np.dtype(spec.dtype).kind for name, spec in observations.items()}
        self._floats = [name for name, kind in kinds.items() if kind == "f"]
        self._others = [name for name, kind in kinds.items() if kind != "f"]
        self._factors = {n: 1 / byte_scale if observations[n].dtype == "uint8" else 1.0 for n in self._others}
        self.features = sum(sizes.values())
        self.normaliser = Normaliser(sum(sizes[n] for n in self._floats)) if self._floats else None

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return [N, F] of observations [N, *shape]."""
        parts = [flat(observations[name]) * self._factors[name] for name in self._others]
        if self.normaliser is not None:
            parts.insert(0, self.normaliser(self.floats(observations)))
        return joined(parts)

    def floats(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return [N, F'] what the normaliser is given."""
        return joined([flat(observations[name]) for name in self._floats])

    def observe(self, observations: Mapping[str, Tensor]) -> None:
        """Let the normaliser see observations [N, *shape]."""
        if self.normaliser is not None:
            self.normaliser.observe(self.floats(observations))


def flat(values: Tensor) -> Tensor:
    return values.float().reshape(len(values), -1)


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

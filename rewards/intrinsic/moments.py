"""Running mean and variance, as values that belong to a version."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments"]


class Moments(NamedTuple):
    """Of everything merged so far; begins as a little weight on mean 0 and variance 1."""

    mean: NDArray[Any] = np.zeros(())
    variance: NDArray[Any] = np.ones(())
    weight: NDArray[Any] = np.full((), 1e-4)

    def merge(self, values: NDArray[Any], weights: NDArray[Any] | None = None) -> Moments:
        """Return the moments of these values too; population variance.

        Args:
          values: [n, ...]
          weights: [n] how often each value occurred; None: once.

        Source: Chan, Golub and LeVeque 1979, eq. 1.5; the first weight 1e-4 of arXiv:2410.23022's code.
        """
        weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
        if not (total := weights.sum()):
            return self
        mean = np.tensordot(weights, values, 1) / total
        variance = np.tensordot(weights, (values - mean) ** 2, 1) / total
        weight, gap = self.weight + total, mean - self.mean
        squares = self.variance * self.weight + variance * total + gap**2 * self.weight * total / weight
        return Moments(self.mean + gap * total / weight, squares / weight, np.asarray(weight))

    def normal(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (values - mean) / deviation."""
        result: NDArray[Any] = (values - self.mean) / np.sqrt(self.variance + 1e-8)
        return result

    def state(self, name: str) -> dict[str, NDArray[Any]]:
        return {f"{name}.{field}": np.asarray(value) for field, value in self._asdict().items()}

    @classmethod
    def of(cls, name: str, state: dict[str, NDArray[Any]]) -> Moments:
        """Inverse of `state`."""
        return cls(**{field: state[f"{name}.{field}"] for field in cls._fields})

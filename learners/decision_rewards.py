"""What a step is worth: environment and intrinsic reward together, clipped and scaled. B fragments, T steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.decision import IntrinsicConfig

__all__ = ["ReturnScale", "discounted_sums", "total_reward"]

Array = NDArray[np.float32]


def total_reward(
    extrinsic: Array, intrinsic: Array, counts: NDArray[np.int32], config: IntrinsicConfig, *, clip: float | None = None
) -> Array:
    """Return [B, T] c_ext * extrinsic + c_int * intrinsic / N^k.

    Args:
      extrinsic: [B, T]
      intrinsic: [B, T]; NaN says that no reward was given, and the step is worth its extrinsic reward alone.
      counts: [B, T] N, how often the step's caption occurred so far, this step included.
      clip: largest magnitude of an extrinsic reward.

    Source: arXiv:2410.23022 sec. 3 (ONI); the count from arXiv:2310.00166 eq. 2 (Motif).
    """
    clipped = extrinsic if clip is None else extrinsic.clip(-clip, clip)
    bonus = intrinsic / np.maximum(counts, 1).astype(np.float32) ** np.float32(config.count_exponent)
    worth = np.where(np.isnan(bonus), 0.0, config.intrinsic_coefficient * bonus)
    return (config.extrinsic_coefficient * clipped + worth).astype(np.float32)


def discounted_sums(rewards: Array, ended: NDArray[np.bool_], gamma: float) -> Array:
    """Return [B, T] r_t + gamma r_{t+1} + ... to the end of the episode or the fragment."""
    sums = np.zeros_like(rewards)
    later: Array = np.zeros(len(rewards), np.float32)
    for t in reversed(range(rewards.shape[1])):
        sums[:, t] = later = rewards[:, t] + np.float32(gamma) * np.where(ended[:, t], 0, later).astype(np.float32)
    return sums


class ReturnScale:
    """Deviation of all discounted returns seen so far, by which rewards are divided.

    What lies beyond a fragment enters through the critic: the value targets, brought back to reward units, are the
    returns. The very first batch, of which the critic knows nothing, is measured by its discounted sums.

    Source: arXiv:2105.05347 sec. 3 (scaling by the spread of returns); moments as Chan et al. 1983, eq. 2.1.
    """

    def __init__(self) -> None:
        self._moments = torch.zeros(3, dtype=torch.float64)
        """count, mean, sum of squared deviations"""

    @property
    def deviation(self) -> float:
        """1 before the first returns."""
        count, _, squares = self._moments.tolist()
        return max((squares / count) ** 0.5, 1e-4) if count else 1.0

    def begin(self, rewards: Array, ended: NDArray[np.bool_], mask: NDArray[np.bool_], gamma: float) -> None:
        """Measure the first batch, all [B, T]; later ones are left to `observe`."""
        if not self._moments[0]:
            sums = discounted_sums(np.where(mask, rewards, np.float32(0)), ended, gamma)
            self.observe(torch.from_numpy(sums[mask]))

    def observe(self, returns: Tensor) -> None:
        """Merge [n] returns in reward units."""
        rows = returns.double().cpu()
        count, mean, squares = self._moments.unbind()
        total = count + len(rows)
        gap = rows.mean() - mean
        squares = squares + rows.var(correction=0) * len(rows) + gap.square() * count * len(rows) / total
        self._moments = torch.stack([total, mean + gap * len(rows) / total, squares])

    def state(self) -> dict[str, Tensor]:
        """Return named tensors for `load`."""
        return {"returns/moments": self._moments.clone()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._moments = tensors["returns/moments"].clone()

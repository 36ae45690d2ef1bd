"""A batch of fragments as tensors, with what follows from its boundaries. B fragments, T steps, K truncations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffers.fragment import Fragments

__all__ = ["DecisionBatch", "batch_of", "starts_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionBatch:
    """Fragments in the order of identity, or some of them."""

    observations: dict[str, Tensor]
    """[B, T + 1, *shape]"""
    actions: Tensor
    """[B, T, A]"""
    behaviour: Tensor
    """[B, T] nats"""
    rewards: Tensor
    """[B, T] total reward, scaled."""
    terminated: Tensor
    truncated: Tensor
    """[B, T] bool"""
    decided: Tensor
    """[B, T] bool, False at a backend's own reset steps."""
    mask: Tensor
    """[B, T] bool, steps that the loss counts: those decided, after the burn-in."""
    starts: Tensor
    """[B, T + 1] bool, an episode begins here."""
    state: Tensor
    """[B, S]"""
    finals: dict[str, Tensor]
    """[K, *shape] in the order of argwhere(truncated)."""

    def select(self, rows: Sequence[int]) -> DecisionBatch:
        """Return the fragments of some ordinals, in ascending order."""
        if len(rows) == len(self.mask):
            return self  # all of them, in order: no copy
        chosen = torch.as_tensor(rows, device=self.mask.device)
        kept = torch.isin(self.truncated.nonzero()[:, 0], chosen)
        plain = {n: getattr(self, n)[chosen] for n in self.__slots__ if n not in ("observations", "finals")}
        return DecisionBatch(
            observations={n: value[chosen] for n, value in self.observations.items()},
            finals={n: value[kept] for n, value in self.finals.items()},
            **plain,
        )

    def only(self, rows: Sequence[int]) -> DecisionBatch:
        """Return the same fragments, of which the loss counts those of some ordinals alone."""
        counted = torch.zeros_like(self.mask)
        counted[list(rows)] = self.mask[list(rows)]
        return replace(self, mask=counted)


def batch_of(fragments: Fragments, rewards: NDArray[np.float32], *, burn_in: int, device: str) -> DecisionBatch:
    """Return a table's fragments on a device.

    Args:
      rewards: [B, T], what each step is worth.
      burn_in: first steps that the loss leaves out.
    """

    def on_device(array: NDArray[Any]) -> Tensor:
        # Arrow's memory is read-only, which torch does not know.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

    def each(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        return {name: on_device(array) for name, array in arrays.items()}

    f, T = fragments, fragments.mask.shape[1]
    return DecisionBatch(
        observations=each(f.observations),
        actions=on_device(f.actions),
        behaviour=on_device(f.logprobs),
        rewards=on_device(rewards),
        terminated=on_device(f.terminated),
        truncated=on_device(f.truncated),
        decided=on_device(f.mask),
        mask=on_device(f.mask & (np.arange(T) >= burn_in)),
        starts=on_device(starts_of(f.terminated | f.truncated, f.mask)),
        state=on_device(f.recurrent_state),
        finals=each(f.final_observations),
    )


def starts_of(ended: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return [B, T + 1]: an episode begins after an end, and after a step in which the backend reset itself.

    The first step is False: its state arrives as it is, already forgotten by the actor where an episode began.
    """
    first = np.zeros((len(ended), 1), np.bool_)
    return np.concatenate([first, ended | ~mask], 1)

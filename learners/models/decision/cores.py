"""Memories of a policy: recurrent cells, unrolled step by step so that acting and learning compute the same.

Dimensions: N rows, B fragments, T steps, F input features, H units, G gates of all units,
S numbers of recurrent state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from configs.errors import require
from learners.models.decision.trunk import orthogonal

__all__ = ["CORES", "GRU", "LSTM", "Core"]

CORES: dict[str, str] = {
    "gru": "learners.models.decision.cores:GRU",
    "lstm": "learners.models.decision.cores:LSTM",
}


class Core(nn.Module, ABC):
    """A cell: what depends on the input alone is projected for all steps at once, the rest one step at a time."""

    features: int
    """H"""
    state_size: int
    """S"""

    def __init__(self, inputs: int, size: int, gates: int) -> None:
        super().__init__()
        require(size >= 1, "policy.core.size", size, "be >= 1", "128 is usual")
        self.features = size
        self.inputs, self.recurrent = nn.Linear(inputs, gates * size), nn.Linear(size, gates * size)
        for layer in (self.inputs, self.recurrent):
            nn.init.zeros_(layer.bias)
            for block in layer.weight.data.chunk(gates):
                orthogonal(block, 1.0)

    def project(self, features: Tensor) -> Tensor:
        """Return [..., G] of features [..., F]."""
        return self.inputs(features)

    @abstractmethod
    def advance(self, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return (output [N, H], state [N, S]) after one step of projected [N, G] and state [N, S]."""

    def unroll(self, projected: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """Return outputs [B, T, H].

        Args:
          projected: [B, T, G]
          state: [B, S]
          starts: [B, T] bool, the state is forgotten before these steps.
        """
        outputs, keep = [], (~starts).to(state.dtype)
        for t in range(starts.shape[1]):
            output, state = self.advance(projected[:, t], state * keep[:, t, None])
            outputs.append(output)
        return torch.stack(outputs, 1)


class GRU(Core):
    """Gated recurrent unit. Source: arXiv:1406.1078 eq. 5 to 8, with the reset gate behind the product as in cuDNN."""

    def __init__(self, inputs: int, *, size: int = 128) -> None:
        super().__init__(inputs, size, gates=3)
        self.state_size = size

    def advance(self, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Move on by one step; see `Core.advance`."""
        size, own = 2 * self.features, self.recurrent(state)
        reset, update = torch.sigmoid(projected[:, :size] + own[:, :size]).chunk(2, 1)
        candidate = torch.tanh(torch.addcmul(projected[:, size:], reset, own[:, size:]))
        state = torch.lerp(candidate, state, update)
        return state, state


class LSTM(Core):
    """Long short-term memory; the state is (output, cell). Source: Gers et al. 2000, eq. 1 to 10."""

    def __init__(self, inputs: int, *, size: int = 128) -> None:
        super().__init__(inputs, size, gates=4)
        self.state_size = 2 * size
        nn.init.ones_(self.inputs.bias.data[size : 2 * size])  # remember, until taught to forget

    def advance(self, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Move on by one step; see `Core.advance`."""
        output, cell = state.chunk(2, 1)
        gates, size = projected + self.recurrent(output), self.features
        enter, forget, leave = torch.sigmoid(gates[:, : 3 * size]).chunk(3, 1)
        cell = forget * cell + enter * torch.tanh(gates[:, 3 * size :])
        output = leave * torch.tanh(cell)
        return output, torch.cat([output, cell], 1)

"""A decision network over a batch of fragments.

Dimensions: B fragments, T steps, K truncations, P distribution parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learners.decision_batch import DecisionBatch

__all__ = ["Outputs", "Unroll"]

Outputs = tuple[Tensor, Tensor]
"""(parameters [B, T, P], values [B, T + 1])"""


class Unroll(nn.Module):
    """A network over a batch, in the form that ranks join."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: DecisionBatch) -> Outputs:
        """Return the policy at every step, and the values there and after the last one."""
        parameters, values = self.network.unroll(batch.observations, batch.state, batch.starts)  # type: ignore[operator]
        return parameters[:, :-1], values

    @torch.no_grad()
    def final_values(self, batch: DecisionBatch) -> Tensor:
        """Return [K] V(final observation), with the memory that the truncated episode had."""
        if not len(next(iter(batch.finals.values()))):
            return batch.rewards.new_zeros(0)
        rows, steps = batch.truncated.nonzero().T
        if not batch.state.shape[1]:
            observations = {name: value[:, None] for name, value in batch.finals.items()}
            starts = torch.zeros_like(rows, dtype=torch.bool)[:, None]
            return self.network.unroll(observations, batch.state[rows], starts)[1][:, 0]  # type: ignore[operator]
        # The fragment once more for each truncation, with the observation that really came next.
        order = torch.arange(len(rows), device=rows.device)
        observations = {name: value[rows] for name, value in batch.observations.items()}
        for name, value in batch.finals.items():
            observations[name][order, steps + 1] = value
        starts = batch.starts[rows]
        starts[order, steps + 1] = False
        values = self.network.unroll(observations, batch.state[rows], starts)[1]  # type: ignore[operator]
        return values[order, steps + 1]

"""The network as a learner calls it: a micro-batch in, the log-probabilities of its loss tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learners.models.logprobs import token_logprobs
from learners.packing import MicroBatch

__all__ = ["Scorer"]


class Scorer(nn.Module):
    """One forward pass from tokens to log-probabilities, so that data parallelism can wrap it whole."""

    def __init__(self, network: Any, chunk: int, *, bf16: bool = False) -> None:
        """Wrap a network.

        Args:
          chunk: token positions whose logits exist at a time.
          bf16: multiply in bfloat16 (torch's autocast); weights, gradients and log-probabilities stay as they are.
        """
        super().__init__()
        self.network, self._chunk, self._bf16 = network, chunk, bf16

    def forward(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return ([N] nats log pi of the loss tokens, [N] nats entropy of their distributions).

        Logits exist only where a loss token is predicted.
        """
        # Without autocast's cache, which would keep a second copy of all weights.
        device = micro.tokens.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
            hidden = self.network.forward(micro.tokens, micro.positions, micro.mask)
            chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.sources)
            return token_logprobs(chosen, micro.targets, self.network.logits, micro.temperatures, self._chunk)

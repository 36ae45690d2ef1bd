"""The network as a learner calls it: a micro-batch in, the log-probabilities of its loss tokens out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from learners.models.logprobs import token_logprobs
from learners.packing import MicroBatch

__all__ = ["Scorer"]


class Scorer(nn.Module):
    """One forward pass from tokens to log-probabilities, so that data parallelism can wrap it whole."""

    def __init__(self, network: Any, chunk: int) -> None:
        """Wrap a network.

        Args:
          chunk: token positions whose logits exist at a time.
        """
        super().__init__()
        self.network, self._chunk = network, chunk

    def forward(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return ([N] nats log pi of the loss tokens, [N] nats entropy of their distributions).

        Logits exist only where a loss token is predicted.
        """
        hidden = self.network.forward(micro.tokens, micro.positions, micro.mask)
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.sources)
        return token_logprobs(chosen, micro.targets, self.network.logits, micro.temperatures, self._chunk)

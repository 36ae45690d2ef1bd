"""What a policy makes of NetHack's message line.

Dimensions: N rows, M bytes that are shown, L of them that are read, E numbers per character, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import require

__all__ = ["MESSAGES", "HashedMessage", "MessageConvolutions", "no_message"]

MESSAGES: dict[str, str] = {
    "conv": "learners.models.decision.messages:MessageConvolutions",
    "hashed": "learners.models.decision.messages:HashedMessage",
    "none": "learners.models.decision.messages:no_message",
}
"""Modules from bytes [N, M], which end with zeros, to features [N, `features`]."""

Stages = Sequence[Sequence[int]]
"""(channels, kernel, pool) of each."""


class MessageConvolutions(nn.Module):
    """A vector per character, then convolutions along the line, each pooled, then one linear layer.

    Source: "lt_cnn_small" of the code of arXiv:2006.13760's baseline, which Sample Factory's NetHack examples
    share; `stages` of 32 channels and `bytes: 256` are its sizes. After arXiv:1509.01626.
    """

    def __init__(
        self,
        *,
        available: int,
        bytes: int = 80,
        embedding: int = 16,
        stages: Stages = ((32, 7, 3), (32, 7, 3), (32, 3, 3)),
        size: int = 64,
    ) -> None:
        """Make the layers.

        Args:
          available: M.
          bytes: how much of the message is read; NetHack's top line has 80 columns.
          embedding: numbers that stand for a character.
          stages: [channels, kernel, pool] of each convolution.
          size: features.

        Raises:
          ConfigError: an argument is out of range, or the stages need a longer text.
        """
        super().__init__()
        require(bytes >= 1, "policy.messages.bytes", bytes, "be >= 1", "80 is the top line")
        require(embedding >= 1, "policy.messages.embedding", embedding, "be >= 1", "16 is usual")
        require(size >= 1, "policy.messages.size", size, "be >= 1", "64 is usual")
        self._length, self.features = min(bytes, available), size
        positions, channels = self._length, [embedding]
        for number, stage in enumerate(stages):
            key = f"policy.messages.stages[{number}]"
            require(len(stage) == 3 and min(stage) >= 1, key, stage, "be [channels, kernel, pool]", "try [32, 7, 3]")
            left, (_, kernel, pool) = positions, stage
            positions = (positions - kernel + 1) // pool
            require(positions >= 1, key, stage, f"fit into the {left} positions that are left", "raise bytes")
            channels.append(stage[0])
        # Nothing stands for 0: what is behind a text adds nothing.
        self.table = nn.Embedding(256, embedding, padding_idx=0)
        widths = zip(pairwise(channels), stages, strict=True)
        self.layers = nn.ModuleList([nn.Conv1d(a, b, kernel) for (a, b), (_, kernel, _) in widths])
        self._pools = [pool for _, _, pool in stages]
        self.last = nn.Linear(channels[-1] * positions, size)

    def forward(self, message: Tensor) -> Tensor:
        """Return [N, size] of bytes [N, M]; what follows the first zero is not read."""
        letters = message[:, : self._length].long()
        line = self.table(letters * (letters > 0).cumprod(1)).transpose(1, 2)
        for layer, pool in zip(self.layers, self._pools, strict=True):
            line = F.max_pool1d(F.relu(layer(line)), pool)
        return F.relu(self.last(line.flatten(1)))


class HashedMessage(nn.Module):
    """The mean of learned vectors of a text's letter triples, which share rows of a table by their hash."""

    def __init__(self, *, buckets: int = 4096, size: int = 64, bytes: int = 80) -> None:
        """Make the table.

        Args:
          buckets, size: rows of the table, and numbers in each.
          bytes: how much of the message is read; NetHack's top line has 80 columns.

        Raises:
          ConfigError: an argument is out of range.
        """
        super().__init__()
        require(bytes >= 3, "policy.messages.bytes", bytes, "be >= 3", "80 is the top line")
        require(buckets >= 1, "policy.messages.buckets", buckets, "be >= 1", "4096 is usual")
        require(size >= 1, "policy.messages.size", size, "be >= 1", "64 is usual")
        self._buckets, self._length, self.features = buckets, bytes, size
        self.table = nn.Parameter(torch.randn(buckets, size))

    def forward(self, message: Tensor) -> Tensor:
        """Return [N, size] of bytes [N, M], which end with zeros; zeros for an empty text."""
        letters = message[:, : self._length].long()
        triples = (letters[:, :-2] * 961 + letters[:, 1:-1] * 31 + letters[:, 2:]) % self._buckets
        weights = (letters[:, 2:] > 0).float()
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        return F.embedding_bag(triples, self.table, mode="sum", per_sample_weights=weights)


def no_message() -> None:
    """The message is not read."""

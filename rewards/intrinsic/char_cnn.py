"""A small convolutional network over the bytes of a caption.

Dimensions: N captions, L bytes, E embedding, C channels, W positions left after all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["CharCnn", "encode"]


class CharCnn(nn.Module):
    """Bytes -> two wide convolutions, `depth` narrow ones, each stage pooled -> two linear layers -> outputs.

    Source: arXiv:2410.23022's code (six convolutions: depth 4), after arXiv:1509.01626; without dropout.
    """

    def __init__(self, outputs: int, *, length: int, embedding: int, channels: int, depth: int, hidden: int) -> None:
        """Make the network with random weights.

        Raises:
          ValueError: `length` bytes are too few for so many layers.
        """
        super().__init__()
        positions = ((length - 6) // 3 - 6) // 3  # after two stages of kernel 7 and pool 3
        positions = (positions - 2 * depth) // 3
        if positions < 1:
            raise ValueError(f"length is {length}; it must be >= {81 + 18 * depth} with depth={depth}; raise it")
        widths = (embedding, channels, channels)
        wide = [_stage(nn.Conv1d(a, b, 7)) for a, b in pairwise(widths)]
        narrow = [layer for _ in range(depth) for layer in (nn.Conv1d(channels, channels, 3), nn.ReLU())]
        self.embedding = nn.Embedding(256, embedding, padding_idx=0)
        self.layers = nn.Sequential(*wide, *narrow, nn.MaxPool1d(3), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(channels * positions, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, outputs),
        )  # fmt: skip

    def forward(self, texts: Tensor) -> Tensor:
        """Return [N, outputs] for bytes [N, L] int64, 0 behind the end of a text."""
        outputs: Tensor = self.head(self.layers(self.embedding(texts).transpose(1, 2)))
        return outputs


def _stage(convolution: nn.Conv1d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool1d(3))


def encode(captions: Sequence[str], length: int) -> Tensor:
    """Return the first `length` bytes of each caption's UTF-8, [N, L] int64, 0 behind its end."""
    rows = np.zeros((len(captions), length), np.uint8)
    for row, caption in zip(rows, captions, strict=True):
        data = np.frombuffer(caption.encode()[:length], np.uint8)
        row[: len(data)] = data
    return torch.from_numpy(rows.astype(np.int64))

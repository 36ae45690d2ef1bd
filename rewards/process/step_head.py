"""A causal network with two logits at the end of each step: wrong, right.

    <folder>/config.json, model.safetensors, tokenizer   any model folder
    <folder>/step_head.safetensors                       weight [2, H], bias [2]

Dimensions: n sequences, H hidden size, K steps of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.errors import DataError
from rewards.process.hosted import padded

__all__ = ["StepHead", "load_head", "marked", "save_head"]

FILE = "step_head.safetensors"


class StepHead(nn.Module):
    """Logits of steps over a network of `learners.models`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        weight = next(network.parameters())
        self.head = nn.Linear(network.config.hidden_size, 2, device=weight.device, dtype=weight.dtype)

    def forward(self, sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        """Return [sum of K, 2] logits of all steps, sequence after sequence.

        Args:
          places: of each sequence [K] the positions at which its steps are judged.
        """
        tokens = padded(self.network, sequences)
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        hidden = self.network.forward(tokens, positions)
        rows = torch.tensor([i for i, where in enumerate(places) for _ in where], dtype=torch.long)
        columns = torch.tensor([place for where in places for place in where], dtype=torch.long)
        logits: Tensor = self.head(hidden[rows, columns]).float()
        return logits


def marked(tokens: Sequence[int], ends: Sequence[int], mark: int | None) -> tuple[list[int], list[int]]:
    """Return tokens with a mark behind each step, and where the marks are; without a mark, where steps end.

    Args:
      ends: [K] positions behind the last token of each step, ascending. What follows the last one is cut off.
    """
    if mark is None:
        return list(tokens[: ends[-1]]), [end - 1 for end in ends]
    found: list[int] = []
    places, start = [], 0
    for end in ends:
        found += [*tokens[start:end], mark]
        places.append(len(found) - 1)
        start = end
    return found, places


def save_head(model: StepHead, folder: str | Path) -> None:
    """Write the head beside its network's files."""
    save_file({name: t.detach().cpu().contiguous() for name, t in model.head.state_dict().items()}, Path(folder) / FILE)


def load_head(network: Any, folder: str | Path) -> StepHead:
    """Return the network of a folder with its head, in evaluation mode.

    Raises:
      DataError: the head is missing, damaged, or of another network.
    """
    path, model = Path(folder) / FILE, StepHead(network)
    try:
        model.head.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} is no head of the network beside it: {error}; save both anew") from error
    return model.eval()

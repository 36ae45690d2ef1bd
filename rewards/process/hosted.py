"""A language model that a reward component hosts: opened from a folder at first use, and asked for log-probabilities.

Dimensions: n sequences, T tokens of the longest one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.errors import DataError
from configs.language import ModelConfig
from learners.models.cache import Network
from learners.models.load import load_network
from learners.models.logprobs import token_logprobs
from learners.models.tokenizer import load_tokenizer

__all__ = ["HostedModel", "padded", "sequence_logprobs"]

ROWS = 64
"""Sequences of one forward pass."""


class HostedModel:
    """Network and tokenizer of a folder; threads share one copy, which nobody changes."""

    def __init__(self, folder: str | Path | None, device: str = "cpu") -> None:
        """Open nothing yet; None: there is no model, which shows at first use."""
        self._folder, self._device = folder, device
        self._opening = threading.Lock()
        self._network: Any = None
        self._tokenizer: Any = None
        self._texts: dict[int, str] = {}

    @property
    def folder(self) -> Path:
        """Where the model is.

        Raises:
          DataError: there is none.
        """
        if self._folder is None:
            raise DataError("there is no reference policy here; score a run folder, or name a model folder instead")
        return Path(self._folder)

    @property
    def network(self) -> Any:
        """The network, in evaluation mode.

        Raises:
          DataError: the folder is no model.
        """
        with self._opening:
            if self._network is None:
                self._network = load_network(ModelConfig(path=str(self.folder), device=self._device), self.folder)
            return self._network

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; errors as of `network`."""
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.folder)
            return self._tokenizer

    def text_of(self, token: int) -> str:
        """Return the text of one token; special tokens have none."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token], skip_special_tokens=True)
        return self._texts[token]

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return of each sequence [its length] float32 on the CPU, nats; see `sequence_logprobs`."""
        found: list[Tensor] = []
        for at in range(0, len(sequences), ROWS):
            part = sequences[at : at + ROWS]
            rows = sequence_logprobs(self.network, part).cpu()
            found += [row[: len(tokens)] for row, tokens in zip(rows, part, strict=True)]
        return found


def sequence_logprobs(network: Network, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return [n, T] log p(token | the tokens before it), nats; 0 for first tokens, meaningless behind the last.

    Temperature 1: what the network says, whatever the tokens were sampled with.
    """
    tokens = padded(network, sequences)
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device).expand(len(tokens), -1)
    hidden = network.forward(tokens[:, :-1], positions)
    logprobs, _ = token_logprobs(hidden, tokens[:, 1:], network.logits)
    return F.pad(logprobs, (1, 0))


def padded(network: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return [n, T] long on the network's device; causal attention never looks at the padding behind a sequence."""
    device = next(network.parameters()).device
    rows = [torch.tensor(tokens, dtype=torch.long) for tokens in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)

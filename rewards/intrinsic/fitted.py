"""What reward models with a caption network share: its making, its batches, its state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rewards.intrinsic.base import Example, IntrinsicModel
from rewards.intrinsic.char_cnn import CharCnn, encode
from rewards.online.tensors import State, adam_state, infer, load_adam, load_network, network_state

__all__ = ["FittedModel"]

NETWORK, OPTIMISER = "network", "optimiser"


@dataclass(kw_only=True)
class FittedModel(IntrinsicModel):
    """A character network fitted to all labels, some steps each time that labels arrive.

    The defaults suit a CPU and captions of a line. The paper's: length 256, embedding 32, channels 64,
    depth 4, hidden 512, learning_rate 1e-4, batch_size 256.
    """

    learns: ClassVar[bool] = True
    outputs: ClassVar[int] = 1

    length: int = 128
    """Bytes of a caption that are read."""
    embedding: int = 16
    channels: int = 32
    depth: int = 1
    """Narrow convolutions."""
    hidden: int = 64
    learning_rate: float = 1e-3
    batch_size: int = 64
    steps: int = 32
    """Optimiser steps of one update."""
    max_grad_norm: float = 10.0
    seed: int = 0
    network: CharCnn = field(init=False, repr=False)
    optimiser: torch.optim.Adam = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("embedding", "channels", "hidden", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be >= 1; see the class for usual values")
        sizes = {name: getattr(self, name) for name in ("length", "embedding", "channels", "depth", "hidden")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = CharCnn(self.outputs, **sizes)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def infer(self, captions: Sequence[str]) -> Tensor:
        """Return [n, outputs] of this version, without gradient."""
        return infer(self.network, self.encode(captions))

    def fit(self, examples: Sequence[Example]) -> float:
        """Take `steps` optimiser steps over shuffled examples; return the mean loss, nats."""
        losses = []
        for batch in islice(self._batches(examples), self.steps):
            loss = self.loss([item for item, _ in batch], torch.tensor([value for _, value in batch]))
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
            self.optimiser.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def loss(self, items: Sequence[tuple[str, ...]], values: Tensor) -> Tensor:
        """Return the mean loss of items with labels of these values [n]."""
        raise TypeError(f"{type(self).__name__} does not implement loss(items, values)")

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return the network's input, [n, length]."""
        return encode(captions, self.length)

    def state(self) -> State:
        return network_state(NETWORK, self.network)

    def training_state(self) -> State:
        return adam_state(OPTIMISER, self.optimiser)

    def load(self, version: int, state: State) -> None:
        load_network(NETWORK, self.network, state)
        load_adam(OPTIMISER, self.optimiser, state)
        self.version = version

    def _batches(self, examples: Sequence[Example]) -> Iterator[list[Example]]:
        """Yield batches without end, each example once before any comes again."""
        shuffled = np.random.default_rng((self.seed, self.version))  # by version: a resumed learner goes on alike
        while True:
            order = shuffled.permutation(len(examples))
            for at in range(0, len(order), self.batch_size):
                yield [examples[i] for i in order[at : at + self.batch_size]]

"""How a reward's network learns: minibatches in an order that a key draws, clipped steps of Adam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rewards.online.tensors import State, adam_state, load_adam, load_network, network_state

__all__ = ["Fit"]

NETWORK, OPTIMISER = "network", "optimiser"
NetworkT = TypeVar("NetworkT", bound=nn.Module)
ExampleT = TypeVar("ExampleT")


class Fit(Generic[NetworkT, ExampleT]):
    """A network, its optimiser, and both as state; what is learned from, and by which loss, a subclass says."""

    def __init__(self, network: NetworkT, *, learning_rate: float, batch_size: int, max_grad_norm: float) -> None:
        self.network, self.batch_size, self._max_grad_norm = network, batch_size, max_grad_norm
        self._optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)

    def state(self) -> State:
        """Return the weights."""
        return network_state(NETWORK, self.network)

    def training_state(self) -> State:
        """Return the optimiser."""
        return adam_state(OPTIMISER, self._optimiser)

    def load(self, state: State) -> None:
        """Restore what `state`, and `training_state` where there is one, returned."""
        load_network(NETWORK, self.network, state)
        load_adam(OPTIMISER, self._optimiser, state)

    def minibatches(self, examples: Sequence[ExampleT], key: tuple[int, int]) -> Iterator[list[ExampleT]]:
        """Yield all examples once, in an order that `key` draws."""
        order = np.random.default_rng(key).permutation(len(examples))
        for at in range(0, len(order), self.batch_size):
            yield [examples[i] for i in order[at : at + self.batch_size]]

    def descend(self, loss: Tensor) -> Tensor:
        """Take a step down a loss; return the loss, on the CPU and without gradient."""
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self._max_grad_norm)
        self._optimiser.step()
        return loss.detach().cpu()

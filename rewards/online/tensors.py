"""Networks and optimisers as arrays of a state, under names; inference that every process repeats exactly."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["State", "adam_state", "infer", "load_adam", "load_network", "network_state"]


State = dict[str, NDArray[Any]]
"""Everything that `load` needs, as arrays without Python objects: it travels, and is stored, as bytes."""
ROWS = 64
"""Of every forward pass: in float32 a row's last bits change with the number of rows beside it."""


def infer(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return network(inputs) [n, ...] without gradient; each row's value is its own, whatever the others are."""
    padding = inputs.new_zeros(-len(inputs) % ROWS, *inputs.shape[1:])
    with torch.inference_mode():
        return torch.cat([network(part) for part in torch.cat([inputs, padding]).split(ROWS)])[: len(inputs)]


def network_state(name: str, network: nn.Module) -> State:
    """Return copies of parameters and buffers; training goes on without changing them."""
    return {f"{name}.{key}": tensor.numpy().copy() for key, tensor in network.state_dict().items()}


def load_network(name: str, network: nn.Module, state: State) -> None:
    """Inverse of `network_state`."""
    network.load_state_dict(_tensors(name, state))


def adam_state(name: str, optimiser: torch.optim.Adam) -> State:
    """Return the moments and step counts of all parameters; empty before the first step."""
    moments = optimiser.state_dict()["state"]
    return {f"{name}.{i}.{key}": t.numpy().copy() for i, entry in moments.items() for key, t in entry.items()}


def load_adam(name: str, optimiser: torch.optim.Adam, state: State) -> None:
    """Inverse of `adam_state`; leaves the optimiser as it is where the state has none, as at scorers."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _tensors(name, state).items():
        index, _, field = key.partition(".")
        moments.setdefault(int(index), {})[field] = tensor
    if moments:
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def _tensors(name: str, state: State) -> dict[str, Tensor]:
    prefix = f"{name}."
    # Copied, since what came through shared memory is read-only.
    return {k.removeprefix(prefix): torch.from_numpy(a.copy()) for k, a in state.items() if k.startswith(prefix)}

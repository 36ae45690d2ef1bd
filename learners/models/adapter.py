"""Low-rank adapters: W is used as W + scale * B A, of which A and B alone are trained and published.

Source: arXiv:2106.09685 eq. 3. The learner computes W x + scale * B (A x), by peft's layers. Engines add the product
to the weight once per version, always to the one that they began with: rounding does not add up, and decoding costs
what it cost before.

Dimensions: O outputs, I inputs of a linear layer, r rank.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from configs.adapter import AdapterConfig
from configs.errors import ConfigError, nearest

__all__ = ["DOWN", "UP", "Installer", "insert_adapter", "require_peft", "trained_numbers"]

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"
"""What follows the name of a layer in the names of its A [r, I] and B [O, r]: those of peft."""
WEIGHT = ".weight"


def insert_adapter(network: nn.Module, adapter: AdapterConfig, seed: int) -> None:
    """Give a network trainable adapters in float32, which change nothing yet, and freeze the rest of it.

    Args:
      adapter: of rank 0 leaves the network as it is.
      seed: fixes A; B is zero.

    Raises:
      ConfigError: a target is no linear layer of the network, or peft is not installed.
    """
    if not adapter.rank:
        return
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    adapted((name for name, module in network.named_modules() if isinstance(module, nn.Linear)), adapter)
    wanted = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(wanted, network)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def require_peft() -> None:
    """Raise the ConfigError of a missing peft."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("model.adapter.rank is above 0, which needs peft; install headrace[lora]")


def adapted(layers: Iterable[str], adapter: AdapterConfig) -> list[str]:
    """Return those layers that the adapter names, in their order.

    Args:
      layers: names of all linear layers.

    Raises:
      ConfigError: a target is none of them.
    """
    held = list(layers)
    ends = {layer.rpartition(".")[2] for layer in held}
    for target in adapter.targets:
        if target not in ends:
            known = nearest(target, ends)
            raise ConfigError(f"model.adapter.targets has {target!r}, which is no linear layer of the model{known}")
    return [layer for layer in held if layer.rpartition(".")[2] in adapter.targets]


class Installer:
    """Puts what was published into the weights of a network that began with those of its model folder."""

    def __init__(self, own: Mapping[str, Tensor], adapter: AdapterConfig) -> None:
        """Take the weights that are to be changed in place.

        Args:
          adapter: of rank 0 where whole weights are published; else `own` are its base, of which a copy is kept.
        """
        self._own, self._adapter = own, adapter
        layers = [name.removesuffix(WEIGHT) for name, w in own.items() if w.ndim == 2 and name.endswith(WEIGHT)]
        self._base = {n: own[n + WEIGHT].detach().clone() for n in adapted(layers, adapter)} if adapter.rank else {}
        self._shapes = self._adapter_shapes() if adapter.rank else {name: tuple(w.shape) for name, w in own.items()}

    @torch.no_grad()
    def install(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Make the weights those of a version.

        Raises:
          ValueError: a name or shape does not fit; nothing is changed then.
        """
        wrong = [n for n, shape in self._shapes.items() if n in tensors and tuple(tensors[n].shape) != shape]
        if differing := sorted(self._shapes.keys() ^ tensors.keys()) + wrong:
            raise ValueError(
                f"weights version {version} do not fit the network: {differing[:5]}; publish its own names"
            )
        for name, weight in self._own.items() if not self._base else ():
            weight.copy_(tensors[name])
        for name, base in self._base.items():
            weight = self._own[name + WEIGHT]
            weight.copy_(added(base, tensors[name + DOWN], tensors[name + UP], self._adapter.scale))

    def _adapter_shapes(self) -> dict[str, tuple[int, ...]]:
        rank = self._adapter.rank
        downs: dict[str, tuple[int, ...]] = {name + DOWN: (rank, base.shape[1]) for name, base in self._base.items()}
        return downs | {name + UP: (base.shape[0], rank) for name, base in self._base.items()}


def added(base: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return base [O, I] + scale * up [O, r] down [r, I] in float32 at least, on the device of the base."""
    down, up = (factor.to(base.device, torch.promote_types(factor.dtype, torch.float32)) for factor in (down, up))
    return torch.addmm(base.to(up.dtype), up, down, alpha=scale)


def trained_numbers(shapes: Mapping[str, Sequence[int]], adapter: AdapterConfig) -> int:
    """Return how many numbers an adapter has, over weights of these shapes.

    Raises:
      ConfigError: a target is no linear layer of the model.
    """
    layers = [name.removesuffix(WEIGHT) for name, shape in shapes.items() if len(shape) == 2 and name.endswith(WEIGHT)]
    return sum(adapter.rank * sum(shapes[layer + WEIGHT]) for layer in adapted(layers, adapter))

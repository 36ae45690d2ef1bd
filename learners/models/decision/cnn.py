"""Policies over pictures and grids of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from buffers.environment_spec import ArraySpec, EnvironmentSpec
from configs.errors import ConfigError, one_of
from learners.models.decision.actor_critic import ActorCritic, trunks_of
from learners.models.decision.images import CellEmbedding, Convolutions
from learners.models.decision.inputs import FlatInputs
from learners.models.decision.trunk import ACTIVATIONS, Trunk

__all__ = ["cnn"]


def cnn(
    spec: EnvironmentSpec,
    *,
    filters: Sequence[Sequence[int]] = ((32, 3, 1), (64, 3, 1)),
    hidden: Sequence[int] = (128,),
    activation: str = "relu",
    cells: str = "embedded",
    layout: str = "channels_last",
    choices: int = 16,
    embedding: int = 16,
    value: str | None = "shared",
    core: Mapping[str, Any] | None = None,
    byte_scale: float = 255.0,
) -> ActorCritic:
    """Convolutions over the picture among the observations, the others beside it.

    Args:
      filters: [channels, kernel, stride] of each layer.
      hidden: units of each layer behind the convolutions.
      activation: tanh | relu | elu
      cells: embedded (numbers that name things, as in MiniGrid) | scaled (brightness)
      layout: channels_last | channels_first
      choices, embedding: values of an embedded channel, and numbers that stand for each.
      value: shared | separate (a trunk of its own behind the convolutions)
      core: memory, for example {target: gru, size: 128}.
      byte_scale: what scaled uint8 observations are divided by.

    Raises:
      ConfigError: an argument is out of range, or the environment shows no picture, or several.
    """
    one_of("policy.cells", cells, ("embedded", "scaled"))
    one_of("policy.layout", layout, ("channels_last", "channels_first"))
    one_of("policy.activation", activation, tuple(ACTIVATIONS))
    name = picture_of(spec)
    height, width, channels = shape_of(spec.observations[name], layout)
    embed = CellEmbedding(channels, choices, embedding) if cells == "embedded" else None
    convolutions = Convolutions(embedding if embed else channels, height, width, filters, activation)
    rest = {n: s for n, s in spec.observations.items() if n != name}
    beside = FlatInputs(rest, byte_scale) if rest else None
    features = convolutions.features + (beside.features if beside else 0)
    trunk = Trunk(features, hidden, trunks=trunks_of(value, core), activation=activation)
    front = PictureFront(name, embed, 1 / byte_scale, layout == "channels_last")
    return ActorCritic(PictureEncoder(front, convolutions, beside, trunk), spec, core)


def picture_of(spec: EnvironmentSpec) -> str:
    """Return the name of the only observation with three dimensions."""
    found = [name for name, array in spec.observations.items() if len(array.shape) == 3]
    if len(found) != 1:
        shapes = {name: array.shape for name, array in spec.observations.items()}
        raise ConfigError(f"policy.target is 'cnn', which wants one observation of 3 dimensions; {shapes}; use mlp")
    return found[0]


def shape_of(array: ArraySpec, layout: str) -> tuple[int, int, int]:
    """Return (height, width, channels)."""
    a, b, c = array.shape
    return (a, b, c) if layout == "channels_last" else (b, c, a)


class PictureFront(nn.Module):
    """Turns the picture of a step into float32 channels."""

    def __init__(self, name: str, embed: CellEmbedding | None, scale: float, last: bool) -> None:
        super().__init__()
        self.name, self.embed, self._scale, self._last = name, embed, scale, last

    def forward(self, picture: Tensor) -> Tensor:
        """Return [N, C, Y, X]."""
        if self.embed is not None:
            return self.embed(picture if self._last else picture.permute(0, 2, 3, 1))
        channels = picture.permute(0, 3, 1, 2) if self._last else picture
        return channels.float() * self._scale if picture.dtype == torch.uint8 else channels.float()


class PictureEncoder(nn.Module):
    """Convolutions over the picture, then a trunk over their output and all other observations."""

    def __init__(
        self, front: PictureFront, convolutions: Convolutions, beside: FlatInputs | None, trunk: Trunk
    ) -> None:
        super().__init__()
        self.front, self.convolutions, self.beside, self.trunk = front, convolutions, beside, trunk
        self.features, self.trunks = trunk.features, trunk.trunks

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return [K, N, H]."""
        seen = self.convolutions(self.front(observations[self.front.name]))
        if self.beside is not None:
            seen = torch.cat([seen, self.beside(observations)], 1)
        return self.trunk(seen)

"""Policies over what NetHack shows: glyphs around the hero, status, message.

Dimensions: N rows, C cells across the crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from buffers.environment_spec import EnvironmentSpec
from configs.errors import ConfigError, one_of
from configs.registry import Section, construct
from learners.models.decision.actor_critic import ActorCritic, trunks_of
from learners.models.decision.images import CellEmbedding, Convolutions
from learners.models.decision.inputs import FlatInputs
from learners.models.decision.messages import MESSAGES
from learners.models.decision.trunk import ACTIVATIONS, Trunk

__all__ = ["nethack"]

GLYPHS, MESSAGE = "glyphs", "message"
NUM_GLYPHS = 5977
"""NLE's 5976 and one for what lies beyond the map."""


def nethack(
    spec: EnvironmentSpec,
    *,
    embedding: int = 32,
    filters: Sequence[Sequence[int]] = ((32, 3, 1), (32, 3, 2)),
    hidden: Sequence[int] = (256,),
    activation: str = "elu",
    messages: Section | None = None,
    value: str | None = "shared",
    core: Mapping[str, Any] | None = None,
) -> ActorCritic:
    """Embedded glyphs under convolutions, the message line, the rest as numbers.

    Args:
      embedding: numbers that stand for a glyph.
      filters: [channels, kernel, stride] of each layer over the glyphs.
      hidden: units of each layer behind all parts.
      activation: tanh | relu | elu
      messages: hashed (letter triples: cheap) | conv (characters under convolutions) | none, or a section of one
        with its arguments; None: hashed where the environment shows a message.
      value: shared | separate (a trunk of its own behind the parts)
      core: memory, for example {target: lstm, size: 256}.

    Raises:
      ConfigError: an argument is out of range, or the environment shows no glyphs [C, C] or no message to read.
    """
    one_of("policy.activation", activation, tuple(ACTIVATIONS))
    shown = spec.observations
    if GLYPHS not in shown or len(shown[GLYPHS].shape) != 2:
        raise ConfigError(f"policy.target is 'nethack', which reads `glyphs` [C, C]; {spec.name} shows {list(shown)}")
    embed = CellEmbedding(1, NUM_GLYPHS, embedding)
    height, width = shown[GLYPHS].shape
    convolutions = Convolutions(embedding, height, width, filters, activation)
    text = message_reader(spec, messages)
    rest = {n: s for n, s in shown.items() if n not in (GLYPHS, MESSAGE)}
    beside = FlatInputs(rest, 255.0) if rest else None
    features = convolutions.features + (text.features if text else 0) + (beside.features if beside else 0)
    trunk = Trunk(features, hidden, trunks=trunks_of(value, core), activation=activation)
    return ActorCritic(NetHackEncoder(embed, convolutions, text, beside, trunk), spec, core)


def message_reader(spec: EnvironmentSpec, messages: Section | None) -> Any:
    """Return the module that reads `message`, with its `features`; None where nothing reads it."""
    shown = spec.observations.get(MESSAGE)
    if shown is None:
        if messages in (None, "none"):
            return None
        raise ConfigError(f"policy.messages is {messages!r}, but {spec.name} shows no `message`; leave it out")
    return construct(MESSAGES, "hashed" if messages is None else messages, "policy.messages", available=shown.shape[0])


class NetHackEncoder(nn.Module):
    """All parts side by side, then a trunk."""

    def __init__(
        self,
        embed: CellEmbedding,
        convolutions: Convolutions,
        message: Any,
        beside: FlatInputs | None,
        trunk: Trunk,
    ) -> None:
        super().__init__()
        self.embed, self.convolutions, self.message, self.beside = embed, convolutions, message, beside
        self.trunk = trunk
        self.features, self.trunks = trunk.features, trunk.trunks

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return [K, N, H]."""
        parts = [self.convolutions(self.embed(observations[GLYPHS][..., None]))]
        if self.message is not None:
            parts.append(self.message(observations[MESSAGE]))
        if self.beside is not None:
            parts.append(self.beside(observations))
        return self.trunk(torch.cat(parts, 1))

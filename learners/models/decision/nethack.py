"""Policies over what NetHack shows: glyphs around the hero, status, message.

Dimensions: N rows, C cells across the crop, M bytes of the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buffers.environment_spec import EnvironmentSpec
from configs.errors import ConfigError, one_of, require
from learners.models.decision.actor_critic import ActorCritic, trunks_of
from learners.models.decision.images import CellEmbedding, Convolutions
from learners.models.decision.inputs import FlatInputs
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
    message_buckets: int = 4096,
    message_size: int = 64,
    message_bytes: int = 80,
    value: str | None = "shared",
    core: Mapping[str, Any] | None = None,
) -> ActorCritic:
    """Embedded glyphs under convolutions, a bag of the message's hashed letter triples, the rest as numbers.

    Args:
      embedding: numbers that stand for a glyph.
      filters: [channels, kernel, stride] of each layer over the glyphs.
      hidden: units of each layer behind all parts.
      activation: tanh | relu | elu
      message_buckets, message_size: rows of the table of triples, and numbers in each.
      message_bytes: how much of the message is read; NetHack's top line has 80 columns.
      value: shared | separate (a trunk of its own behind the parts)
      core: memory, for example {target: lstm, size: 256}.

    Raises:
      ConfigError: an argument is out of range, or the environment shows no glyphs [C, C].
    """
    one_of("policy.activation", activation, tuple(ACTIVATIONS))
    require(message_bytes >= 3, "policy.message_bytes", message_bytes, "be >= 3", "80 is the top line")
    shown = spec.observations
    if GLYPHS not in shown or len(shown[GLYPHS].shape) != 2:
        raise ConfigError(f"policy.target is 'nethack', which reads `glyphs` [C, C]; {spec.name} shows {list(shown)}")
    embed = CellEmbedding(1, NUM_GLYPHS, embedding)
    height, width = shown[GLYPHS].shape
    convolutions = Convolutions(embedding, height, width, filters, activation)
    text = MessageBag(message_buckets, message_size, message_bytes) if MESSAGE in shown else None
    rest = {n: s for n, s in shown.items() if n not in (GLYPHS, MESSAGE)}
    beside = FlatInputs(rest, 255.0) if rest else None
    features = convolutions.features + (text.features if text else 0) + (beside.features if beside else 0)
    trunk = Trunk(features, hidden, trunks=trunks_of(value, core), activation=activation)
    return ActorCritic(NetHackEncoder(embed, convolutions, text, beside, trunk), spec, core)


class MessageBag(nn.Module):
    """The mean of learned vectors of a text's letter triples, which share rows of a table by their hash."""

    def __init__(self, buckets: int, size: int, length: int) -> None:
        super().__init__()
        self._buckets, self._length, self.features = buckets, length, size
        self.table = nn.Parameter(torch.randn(buckets, size))

    def forward(self, message: Tensor) -> Tensor:
        """Return [N, size] of bytes [N, M], which end with zeros; zeros for an empty text."""
        letters = message[:, : self._length].long()
        triples = (letters[:, :-2] * 961 + letters[:, 1:-1] * 31 + letters[:, 2:]) % self._buckets
        weights = (letters[:, 2:] > 0).float()
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        return F.embedding_bag(triples, self.table, mode="sum", per_sample_weights=weights)


class NetHackEncoder(nn.Module):
    """All parts side by side, then a trunk."""

    def __init__(
        self,
        embed: CellEmbedding,
        convolutions: Convolutions,
        message: MessageBag | None,
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

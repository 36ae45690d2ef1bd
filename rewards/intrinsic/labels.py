"""What annotators say of captions, and who they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from buffers.scores import ScoreStatus

__all__ = ["Annotator", "Item", "Label"]

Item = tuple[str, ...]
"""What is asked about: one caption, or a pair of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The answer to one item. A reply that cannot be read is `abstained` and has no value; it is never 0."""

    item: Item
    value: float | None = None
    """Of a caption: 1 helpful, 0 not. Of a pair: 1 the first is better, 0 the second, 0.5 neither."""
    status: ScoreStatus = ScoreStatus.OK
    prompt: str = ""
    reply: str = ""
    detail: str = ""
    """Why there is no value."""
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.value is None) == (self.status is ScoreStatus.OK):
            raise ValueError(f"a label is ok exactly when it has a value, got {self.status} with {self.value}")
        if self.value is not None and not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a label's value lies in [0, 1], got {self.value}")


class Annotator(Protocol):
    """Labels items; hosted by an actor of the pool `annotator`."""

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        """Return one label per item, in order, by the deadline; never raises for an endpoint's fault."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...

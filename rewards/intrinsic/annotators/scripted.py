"""Labels from rules: for tests, for studies of what labels cost, and where the events that count are known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xxhash import xxh3_64_intdigest

from buffers.scores import ScoreStatus
from configs.errors import require
from rewards.intrinsic.labels import Item, Label
from rewards.intrinsic.rules import Rules

__all__ = ["Scripted"]

PLACE = "exploration.annotation.annotator"


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """Regular expressions label captions: the first rule that matches wins. Can be made slow, and wrong.

    Of a pair, the caption of the higher value is better; equal values are a tie (0.5).
    """

    rules: Sequence[Mapping[str, Any]]
    """[{match: regular expression, value: 0 to 1 or null}]; null: captions like this get no label."""
    default: float | None = 0.0
    """Of captions that no rule matches; None: no label."""
    delay_s: float = 0.0
    """That each call takes, as if a model were asked."""
    flip: float = 0.0
    """Share of labels that are turned round (v to 1 - v); by a hash of the item, so that it repeats."""
    seed: int = 0
    _rules: Rules = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.delay_s >= 0, f"{PLACE}.delay_s", self.delay_s, "be >= 0", "0 answers at once")
        require(0 <= self.flip <= 1, f"{PLACE}.flip", self.flip, "lie in [0, 1]", "0 labels by the rules alone")
        object.__setattr__(self, "_rules", Rules(self.rules, self.default))

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        """Return one label per item, in order, after `delay_s`."""
        await asyncio.sleep(self.delay_s)
        return [self._label(item) for item in items]

    async def close(self) -> None:
        """Nothing is held."""

    def _label(self, item: Item) -> Label:
        values = [self._rules.value(caption) for caption in item]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            silent = item[values.index(None)]
            return Label(item=item, status=ScoreStatus.ABSTAINED, detail=f"the rules give {silent!r} no value")
        value = known[0] if len(known) == 1 else _better(*known)
        return Label(item=item, value=1.0 - value if self._is_flipped(item) else value)

    def _is_flipped(self, item: Item) -> bool:
        # The first word keeps this draw apart from others by hash, such as the one of held-out labels.
        return xxh3_64_intdigest("\x1f".join(("flip", str(self.seed), *item)).encode()) < self.flip * 2**64


def _better(first: float, second: float) -> float:
    """Return 1 where the first value is higher, 0 where the second is, 0.5 where they are equal."""
    return 0.5 if first == second else float(first > second)

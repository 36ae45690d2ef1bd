"""Labels from rules: for tests, for studies of what labels cost, and where the events that count are known."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xxhash import xxh3_64_intdigest

from buffers.scores import ScoreStatus
from configs.errors import require
from rewards.intrinsic.labels import Item, Label

__all__ = ["Rule", "Scripted"]

PLACE = "exploration.annotation.annotator"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of `rules`."""

    match: str
    """Regular expression, searched for anywhere in the caption, upper and lower case as written."""
    value: float | None
    """In [0, 1]; None: captions like this get no label."""


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """Regular expressions label captions: the first rule that matches wins. Can be made slow, and wrong.

    Of a pair, the caption of the higher value is better; equal values are a tie (0.5).
    """

    rules: Sequence[Mapping[str, Any]]
    """[{match: regular expression, value: 0 to 1 or null}]"""
    default: float | None = 0.0
    """Of captions that no rule matches; None: no label."""
    delay_s: float = 0.0
    """That each call takes, as if a model were asked."""
    flip: float = 0.0
    """Share of labels that are turned round (v to 1 - v); by a hash of the item, so that it repeats."""
    seed: int = 0
    _compiled: tuple[tuple[re.Pattern[str], float | None], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rules = [_rule(at, entry) for at, entry in enumerate(self.rules)]
        compiled = tuple((_pattern(at, rule.match), rule.value) for at, rule in enumerate(rules))
        object.__setattr__(self, "_compiled", compiled)
        _check_value(f"{PLACE}.default", self.default)
        require(self.delay_s >= 0, f"{PLACE}.delay_s", self.delay_s, "be >= 0", "0 answers at once")
        require(0 <= self.flip <= 1, f"{PLACE}.flip", self.flip, "lie in [0, 1]", "0 labels by the rules alone")

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        """Return one label per item, in order, after `delay_s`."""
        await asyncio.sleep(self.delay_s)
        return [self._label(item) for item in items]

    async def close(self) -> None:
        """Nothing is held."""

    def _label(self, item: Item) -> Label:
        values = [self._value(caption) for caption in item]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            silent = item[values.index(None)]
            return Label(item=item, status=ScoreStatus.ABSTAINED, detail=f"the rules give {silent!r} no value")
        value = known[0] if len(known) == 1 else _better(*known)
        return Label(item=item, value=1.0 - value if self._is_flipped(item) else value)

    def _value(self, caption: str) -> float | None:
        matching = (value for pattern, value in self._compiled if pattern.search(caption))
        return next(matching, self.default)

    def _is_flipped(self, item: Item) -> bool:
        # A unit separator keeps ("a", "b") and ("ab",) apart.
        return xxh3_64_intdigest("\x1f".join(item).encode(), self.seed & (2**64 - 1)) < self.flip * 2**64


def _better(first: float, second: float) -> float:
    """Return 1 where the first value is higher, 0 where the second is, 0.5 where they are equal."""
    return 0.5 if first == second else float(first > second)


def _rule(at: int, entry: Mapping[str, Any]) -> Rule:
    place = f"{PLACE}.rules[{at}]"
    is_rule = isinstance(entry, Mapping) and set(entry) == {"match", "value"}
    require(is_rule, place, entry, "have the keys match and value", 'for example {match: "open the door", value: 1}')
    _check_value(f"{place}.value", entry["value"])
    return Rule(**entry)


def _pattern(at: int, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        require(False, f"{PLACE}.rules[{at}].match", text, f"be a regular expression ({error})", "correct it")
        raise


def _check_value(key: str, value: object) -> None:
    is_number = isinstance(value, int | float) and 0 <= value <= 1
    require(value is None or is_number, key, value, "lie in [0, 1] or be null", "1 is helpful, null is no label")

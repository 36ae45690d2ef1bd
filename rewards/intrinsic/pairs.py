"""Pairs of captions for annotators that compare."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

from xxhash import xxh3_64_intdigest

from rewards.intrinsic.labels import Item

__all__ = ["PairSource"]

RECENT = 2_000
"""Different captions that pairs are drawn from: those met last."""
TRIES = 4
"""Draws for each pair wanted, since most pairs of few captions have their label."""


class PairSource:
    """Draws pairs of different captions, evenly over the recent ones, however often each was met."""

    def __init__(self, rng: random.Random, size: int = RECENT) -> None:
        self._rng, self._size = rng, size
        self._recent: dict[str, None] = {}

    def add(self, captions: Iterable[str]) -> None:
        """Take in captions, the last one as the newest."""
        for caption in captions:
            self._recent.pop(caption, None)
            self._recent[caption] = None
        while len(self._recent) > self._size:
            del self._recent[next(iter(self._recent))]

    def draw(self, count: int, labelled: Collection[Item]) -> list[Item]:
        """Return at most `count` different pairs that have no label."""
        captions, found = list(self._recent), dict[Item, None]()
        for _ in range(TRIES * count if len(captions) > 1 else 0):
            pair = _pair(*self._rng.sample(captions, 2))
            if pair not in labelled:
                found[pair] = None
            if len(found) == count:
                break
        return list(found)


def _pair(a: str, b: str) -> Item:
    """Return the two in the one order that they are always asked in, which a hash decides.

    An annotator that prefers what comes first then prefers each caption about as often as it spurns it.
    """
    low, high = sorted((a, b))
    return (low, high) if xxh3_64_intdigest(f"{low}\x1f{high}".encode()) % 2 else (high, low)

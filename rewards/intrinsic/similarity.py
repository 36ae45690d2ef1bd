"""Captions that sound like a goal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rewards.intrinsic.base import IntrinsicModel

__all__ = ["Similarity"]


@dataclass(kw_only=True)
class Similarity(IntrinsicModel):
    """Largest cosine similarity of a caption to a goal text, 0 where it is not above `threshold`.

    Texts are compared as bags of lower-case words and of their character n-grams, so that "keys" is near
    "key"; no model has to be loaded, and what two texts share can be read off.

    Source: ELLM, arXiv:2302.06692 eq. 3, with fastText's subwords (arXiv:1607.04606 sec. 3.2) for the
    embedding, as in the bag-of-words baseline of arXiv:2410.23022.
    """

    goals: Sequence[str]
    """What is worth reaching, in the words that captions use."""
    threshold: float = 0.5
    ngram: int = 3
    """Characters of a subword, "<" and ">" at the ends of a word included; 0 compares whole words alone."""
    _goals: list[Counter[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._goals = [_bag(goal, self.ngram) for goal in self.goals]
        if not all(self._goals) or not self._goals or isinstance(self.goals, str):
            raise ValueError(f'goals is {self.goals!r}; it must be a list of texts; try ["pick up the key"]')
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it must lie in [0, 1); 0.5 asks for half the words")
        if self.ngram < 0:
            raise ValueError(f"ngram is {self.ngram}; it must be >= 0; 3 is usual")

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        bags = [_bag(caption, self.ngram) for caption in inputs]
        nearest = np.array([max(_cosine(bag, goal) for goal in self._goals) for bag in bags], np.float64)
        return np.where(nearest > self.threshold, nearest, 0.0)


def _bag(text: str, ngram: int) -> Counter[str]:
    """Return how often each word, and each of its character n-grams, occurs in a text."""
    bag: Counter[str] = Counter()
    for word in re.findall(r"\w+", text.casefold()):
        whole = f"<{word}>"
        bag[whole] += 1
        # One of them would be the word itself.
        bag.update(whole[at : at + ngram] for at in range(len(whole) - ngram + 1) if 0 < ngram < len(whole))
    return bag


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    product = sum(count * b[feature] for feature, count in a.items())
    lengths = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return product / lengths if lengths else 0.0

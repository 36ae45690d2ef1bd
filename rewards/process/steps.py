"""Where the steps of a completion are: spans over the tokens that the policy sampled.

Tokens are never cut and never encoded again: a separator that ends inside a token ends with that token.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from buffers.scores import Sample
from buffers.trajectory import Span

__all__ = ["Lines", "Pattern", "Splitter", "Tags", "Tokens", "Turns", "sampled_turns", "step_spans"]

STEP = "step"
Splitter = Callable[[Sequence[str]], list[int]]
"""Texts of the tokens of one turn -> where its steps end, ascending; the last one ends with the turn."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A step ends with each match of a regular expression; what follows the last one is a step as well.

    White space alone is no step: it belongs to the step before, at the beginning to the one behind. An
    expression that takes exponential time holds the whole server, so keep it plain.
    """

    pattern: str
    """For instance `\\n\\n` or `Step \\d+:`."""

    def __post_init__(self) -> None:
        try:
            found = re.compile(self.pattern).match("")
        except re.error as error:
            raise ValueError(f"pattern is {self.pattern!r}, no regular expression: {error}; correct it") from error
        if found:
            raise ValueError(f"pattern is {self.pattern!r}, which also matches nothing; make it match some text")

    def __call__(self, texts: Sequence[str]) -> list[int]:
        text, behind = "".join(texts), list(accumulate(map(len, texts)))
        ends: list[int] = []
        start = 0
        for match in re.finditer(self.pattern, text):
            if text[start : match.end()].strip():
                ends.append(bisect_left(behind, match.end()) + 1)
                start = match.end()
        return _closed(sorted(set(ends)), len(texts), bool(text[start:].strip()))


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A step is a line."""

    def __call__(self, texts: Sequence[str]) -> list[int]:
        return Pattern(pattern=r"\n\s*")(texts)


@dataclass(frozen=True, kw_only=True)
class Tags:
    """A step ends with `</tag>`."""

    tag: str = "step"

    def __call__(self, texts: Sequence[str]) -> list[int]:
        return Pattern(pattern=re.escape(f"</{self.tag}>"))(texts)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """A step is everything between two insertions: an action of an agent with tools."""

    def __call__(self, texts: Sequence[str]) -> list[int]:
        return [len(texts)] if texts else []


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Every token is a step."""

    def __call__(self, texts: Sequence[str]) -> list[int]:
        return list(range(1, len(texts) + 1))


def sampled_turns(sample: Sample) -> list[tuple[int, int]]:
    """Return the stretches [start, end) of token positions that the policy sampled, in order.

    Those are the spans called "turn"; a sample without any has its `num_tokens` last tokens.
    """
    turns = [(span.start, span.end) for span in sample.spans if span.kind == "turn" and span.end > span.start]
    length = len(sample.tokens)
    return turns or ([(length - sample.num_tokens, length)] if sample.num_tokens else [])


def step_spans(sample: Sample, splitter: Splitter, text_of: Callable[[int], str]) -> tuple[Span, ...]:
    """Return the steps of a sample in order; every sampled token is in one of them.

    Args:
      text_of: token id -> its text; special tokens have none.
    """
    return tuple(Span(STEP, start, end) for start, end in _stretches(sample, splitter, text_of))


def _stretches(sample: Sample, splitter: Splitter, text_of: Callable[[int], str]) -> Iterator[tuple[int, int]]:
    for first, last in sampled_turns(sample):
        start = first
        for end in splitter([text_of(token) for token in sample.tokens[first:last]]):
            yield start, first + end
            start = first + end


def _closed(ends: list[int], length: int, unfinished: bool) -> list[int]:
    """Return ends of which the last one is `length`: as a step of its own, or moved there."""
    if not length or (ends and ends[-1] == length):
        return ends
    return [*ends, length] if unfinished or not ends else [*ends[:-1], length]

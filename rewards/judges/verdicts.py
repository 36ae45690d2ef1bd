"""How a judge is to answer, and how its answer is read: strictly, or not at all.

A verdict is the end of a reply. What comes before is thought, and no number in it counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Form", "json_form", "last_object", "number", "score_form"]

VERDICT_CHARACTERS = 10_000
"""At the end of a reply in which a JSON object may begin."""
T = TypeVar("T")
NUMBER = {"type": "number"}
TEXT = {"type": "string"}


@dataclass(frozen=True, kw_only=True)
class Form(Generic[T]):
    """The form of a reply."""

    ask: str
    """Says so to the judge; fills {form}."""
    read: Callable[[str], T | None]
    """Returns what a reply says, None where it is not of this form."""
    schema: Mapping[str, Any] | None = None
    """JSON schema, for servers that hold a model to one."""


def json_form(properties: Mapping[str, Any], example: str, read: Callable[[dict[str, Any]], T | None]) -> Form[T]:
    """Return the form of a reply that ends with one JSON object of these properties, and a reason before them."""

    def read_end(reply: str) -> T | None:
        found = last_object(reply)
        return None if found is None or not properties.keys() <= found.keys() else read(found)

    schema = {
        "type": "object",
        "properties": {"reason": TEXT, **properties},
        "required": ["reason", *properties],
        "additionalProperties": False,
    }
    ask = f"End with one JSON object, and write nothing after it:\n{example}"
    return Form(ask=ask, read=read_end, schema=schema)


def score_form(low: float, high: float) -> Form[float]:
    """Return the form of one number in [low, high]."""
    example = f'{{"reason": "one sentence", "score": a number from {low:g} to {high:g}}}'
    return json_form({"score": NUMBER}, example, lambda found: number(found["score"], low, high))


def number(value: Any, low: float, high: float) -> float | None:
    """Return a JSON number in [low, high] as a float; None for anything else: no text, no truth value, no NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and low <= value <= high else None


def last_object(reply: str) -> dict[str, Any] | None:
    """Return the JSON object that a reply ends with, None where it ends otherwise or says one key twice.

    A code fence around it does no harm. An object inside another one that is cut off is no verdict.
    """
    text = reply.strip().removesuffix("```").rstrip()[-VERDICT_CHARACTERS:]
    start = text.find("{") if text.endswith("}") else -1
    while start >= 0:
        try:
            found, end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = -1
        if end == len(text):
            return None if INSIDE.search(text, 0, start) else found
        start = text.find("{", start + 1 if end < 0 else end)
    return None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


INSIDE = re.compile(r'([\[{,]|"\s*:)\s*\Z')
"""How a text ends in which a JSON value was begun."""
DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)

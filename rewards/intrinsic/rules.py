"""Rules that give captions values: of the annotator `scripted`, and of the reward `script`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Rules"]


class Rules:
    """Regular expressions, searched for anywhere in a caption, case as written; the first that matches wins."""

    def __init__(self, rules: Sequence[Mapping[str, Any]], default: float | None) -> None:
        """Take [{match: regular expression, value: 0 to 1 or null}] and the value of captions that none matches.

        Raises:
          ValueError: a rule cannot be used; the message names it.
        """
        self._rules = [_rule(f"rules[{at}]", rule) for at, rule in enumerate(rules)]
        self._default = _value("default", default)

    def value(self, caption: str) -> float | None:
        """Return what a caption is worth; None where the rules say so."""
        return next((value for pattern, value in self._rules if pattern.search(caption)), self._default)


def _rule(place: str, rule: Mapping[str, Any]) -> tuple[re.Pattern[str], float | None]:
    if not isinstance(rule, Mapping) or set(rule) != {"match", "value"}:
        raise ValueError(f'{place} is {rule!r}; it must have the keys match and value; try {{match: "key", value: 1}}')
    try:
        return re.compile(rule["match"]), _value(f"{place}.value", rule["value"])
    except re.error as error:
        raise ValueError(f"{place}.match is {rule['match']!r}, no regular expression: {error}; correct it") from error


def _value(place: str, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{place} is {value!r}; it must lie in [0, 1] or be null; 1 is helpful, null is no label")
    return None if value is None else float(value)

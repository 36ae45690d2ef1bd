"""The child's side of `rewards.verifiers.json_schema`."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import jsonschema
from referencing import Registry

__all__ = ["judge", "parse"]


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """Check `item["text"]` against `item["schema"]`."""
    try:
        jsonschema.Draft202012Validator.check_schema(item["schema"])
    except jsonschema.SchemaError as error:
        return {"abstained": f"the task's schema is no JSON schema: {error.message[:200]}"}
    try:
        value = parse(item["text"], item["depth"])
    except (ValueError, RecursionError):
        return {"value": 0.0}
    # An empty registry: a `$ref` is never fetched from a network.
    return {"value": float(jsonschema.Draft202012Validator(item["schema"], registry=Registry()).is_valid(value))}


def parse(text: str, depth: int) -> Any:
    """Return the one JSON value that a text is.

    Raises:
      ValueError, RecursionError: it is none, or not within the limits.
    """
    value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
    level = [value]
    for _ in range(depth):
        level = [child for node in level for child in _children(node)]
        if not level:
            return value
    raise ValueError(f"more than {depth} levels")


def _children(node: Any) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is repeated")
    return dict(pairs)

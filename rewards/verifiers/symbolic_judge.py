"""The inside of the sandbox for `rewards.verifiers.symbolic`: imported there only, heavy imports first."""

from __future__ import annotations

import logging
from typing import Any

import math_verify

__all__ = ["judge"]

# Its only warning asks us to bring our own timeout, which is what the child is.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """Compare `item["completion"]` with `item["reference"]`."""
    gold = math_verify.parse(_delimited(item["reference"]), parsing_timeout=None)
    if not gold:
        return {"abstained": f"Math-Verify cannot parse the reference answer {item['reference'][:80]!r}"}
    answer = math_verify.parse(item["completion"], parsing_timeout=None)
    return {"value": float(math_verify.verify(gold, answer, timeout_seconds=None))}


def _delimited(reference: str) -> str:
    # Math-Verify finds LaTeX only between delimiters, which reference answers often lack.
    return reference if "$" in reference or "\\boxed" in reference else f"\\boxed{{{reference}}}"


# The first simplification loads half of the algebra, for more than a second: not the first item's fault.
judge({"reference": "$x = a^2 + 2ab + b^2$", "completion": "$x = (a+b)^2$"})

"""Reward for arriving at the reference number."""

from __future__ import annotations

import decimal
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component

__all__ = ["Numeric", "last_number"]

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\].])[-+])?(?P<number>{_DIGITS}(?:\.\d*)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?"
    r"(?:/(?P<denominator>\d+))?",
    re.ASCII,
)
# 220 digits are exact for any answer a person writes; out of range becomes infinite instead of raising.
_ARITHMETIC = decimal.Context(prec=220, traps=[])


@dataclass(frozen=True, kw_only=True)
class Numeric(Component):
    """1.0 where the last number of the completion equals that of the reference answer, else 0.0.

    Words, units and currency signs around the number are ignored; `1,234.5`, `-3`, `2e-3` and `3/4`
    are numbers. Abstains where the reference holds no number.

    Source: the answer check of GSM8K, arXiv:2110.14168, with the tolerances of PEP 485.
    """

    absolute_tolerance: float = 1e-6
    relative_tolerance: float = 0.0
    """Share of the reference's magnitude."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} is {value}; it must be a finite number >= 0; 0 asks for equality")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        reference = last_number(sample.answer)
        if reference is None:
            detail = f"{sample.id}: no number in the reference answer {sample.answer[:80]!r}"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        given = last_number(sample.completion)
        return Score(value=float(given is not None and self._close(given, reference)))

    def _close(self, given: Decimal, reference: Decimal) -> bool:
        relative = _ARITHMETIC.multiply(Decimal(self.relative_tolerance), abs(reference))
        allowed = max(Decimal(self.absolute_tolerance), relative)
        return abs(_ARITHMETIC.subtract(given, reference)) <= allowed


def last_number(text: str) -> Decimal | None:
    """Return the last number in `text`, or None where there is none or it is out of range."""
    last = deque(_NUMBER.finditer(text.replace("\N{MINUS SIGN}", "-")), maxlen=1)
    if not last:
        return None
    match = last[0]
    digits = match["number"].replace(",", "") + (match["exponent"] or "")
    value = _ARITHMETIC.create_decimal((match["sign"] or "") + digits)
    if match["denominator"]:
        value = _ARITHMETIC.divide(value, _ARITHMETIC.create_decimal(match["denominator"]))
    return value if value.is_finite() else None

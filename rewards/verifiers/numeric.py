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
from rewards.verifiers.units import NONE, Unit, leading_unit

__all__ = ["Numeric", "last_number", "last_quantity"]

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\].])[-+])?(?P<number>{_DIGITS}(?:\.\d*)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?"
    r"(?:/(?P<denominator>\d+))?",
    re.ASCII,
)
_POWER_OF = re.compile(r"[^\W\d_]\^?-?$")
# 220 digits are exact for any answer a person writes; out of range becomes infinite instead of raising.
_ARITHMETIC = decimal.Context(prec=220, traps=[])


Quantity = tuple[Decimal, Unit | None]


@dataclass(frozen=True, kw_only=True)
class Numeric(Component):
    """1.0 where the last number of the completion equals that of the reference answer, else 0.0.

    Words and currency signs around the number are ignored, and units unless they are asked for; `1,234.5`, `-3`,
    `2e-3` and `3/4` are numbers. Abstains where the reference holds no number.

        component: {target: numeric, units: true, relative_tolerance: 0.01}

    Source: the answer check of GSM8K, arXiv:2110.14168, with the tolerances of PEP 485.
    """

    absolute_tolerance: float = 1e-6
    relative_tolerance: float = 0.0
    """Share of the reference's magnitude."""
    units: bool = False
    """Where the reference has a unit, the number must have one of the same kind: 1.5 km for 1500 m. The absolute
    tolerance is in the reference's unit."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} is {value}; it must be a finite number >= 0; 0 asks for equality")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Score:
        reference = last_quantity(sample.answer, units=self.units)
        if reference is None:
            detail = f"{sample.id}: no number in the reference answer {sample.answer[:80]!r}"
            return Score.invalid(ScoreStatus.ABSTAINED, detail)
        given = last_quantity(sample.completion, units=self.units)
        return Score(value=float(given is not None and self._equal(given, reference)))

    def _equal(self, given: Quantity, reference: Quantity) -> bool:
        (number, unit), (expected, wanted) = given, reference
        if self.units and wanted is not None:
            unit = unit or NONE
            if unit.powers != wanted.powers:
                return False
            number = _ARITHMETIC.multiply(number, unit.factor / wanted.factor)
        return self._close(number, expected)

    def _close(self, given: Decimal, reference: Decimal) -> bool:
        relative = _ARITHMETIC.multiply(Decimal(self.relative_tolerance), abs(reference))
        allowed = max(Decimal(self.absolute_tolerance), relative)
        return abs(_ARITHMETIC.subtract(given, reference)) <= allowed


def last_number(text: str) -> Decimal | None:
    """Return the last number in `text`, or None where there is none or it is out of range."""
    found = last_quantity(text)
    return found and found[0]


def last_quantity(text: str, *, units: bool = False) -> Quantity | None:
    """Return the last number in `text`, with the unit behind it if asked, or None as `last_number`.

    Where units are asked for, the power of one is no number: the last of "5 m^2" is 5.
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    numbers = (match for match in _NUMBER.finditer(text) if not units or not _is_power(text, match.start()))
    last = deque(numbers, maxlen=1)
    if not last:
        return None
    match = last[0]
    digits = match["number"].replace(",", "") + (match["exponent"] or "")
    value = _ARITHMETIC.create_decimal((match["sign"] or "") + digits)
    if match["denominator"]:
        value = _ARITHMETIC.divide(value, _ARITHMETIC.create_decimal(match["denominator"]))
    return (value, leading_unit(text[match.end() :]) if units else None) if value.is_finite() else None


def _is_power(text: str, start: int) -> bool:
    return _POWER_OF.search(text[max(0, start - 3) : start]) is not None

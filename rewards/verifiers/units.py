"""Units of measurement: what stands behind a number, as a factor and dimensions.

Source: The International System of Units, 9th edition (BIPM, 2019), tables 2 to 8; customary units from NIST SP 811.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

__all__ = ["NONE", "Unit", "leading_unit"]

DIMENSIONS = ("m", "kg", "s", "A", "K", "mol", "cd", "degC", "degF")
"""Degrees Celsius and Fahrenheit have zeros of their own: they are equal to themselves alone."""
MAX_FACTORS = 8
_PREFIXES = {
    "": 0, "n": -9, "u": -6, "\N{MICRO SIGN}": -6, "\N{GREEK SMALL LETTER MU}": -6, "m": -3, "c": -2, "d": -1,
    "h": 2, "k": 3, "M": 6, "G": 9, "T": 12,
}  # fmt: skip
_PREFIXED = {
    "m": "1 m", "g": "0.001 kg", "s": "1 s", "A": "1 A", "K": "1 K", "mol": "1 mol", "cd": "1 cd", "Hz": "1 s-1",
    "N": "1 m kg s-2", "Pa": "1 m-1 kg s-2", "J": "1 m2 kg s-2", "W": "1 m2 kg s-3", "C": "1 s A",
    "V": "1 m2 kg s-3 A-1", "ohm": "1 m2 kg s-3 A-2", "\N{OHM SIGN}": "1 m2 kg s-3 A-2",
    "\N{GREEK CAPITAL LETTER OMEGA}": "1 m2 kg s-3 A-2", "F": "1 m-2 kg-1 s4 A2", "T": "1 kg s-2 A-1",
    "L": "0.001 m3", "l": "0.001 m3", "eV": "1.602176634e-19 m2 kg s-2", "Wh": "3600 m2 kg s-2",
    "cal": "4.184 m2 kg s-2", "bar": "1e5 m-1 kg s-2",
}  # fmt: skip
_WHOLE = {
    "min": "60 s", "h": "3600 s", "hr": "3600 s", "d": "86400 s", "t": "1000 kg", "ha": "1e4 m2", "in": "0.0254 m",
    "ft": "0.3048 m", "yd": "0.9144 m", "mi": "1609.344 m", "lb": "0.45359237 kg", "oz": "0.028349523125 kg",
    "mph": "0.44704 m s-1", "atm": "101325 m-1 kg s-2", "%": "0.01", "\N{DEGREE SIGN}C": "1 degC",
    "\N{DEGREE SIGN}F": "1 degF",
}  # fmt: skip
_NAMES = {
    "meter": "m", "metre": "m", "gram": "g", "second": "s", "sec": "s", "ampere": "A", "kelvin": "K", "mole": "mol",
    "hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J", "watt": "W", "coulomb": "C", "volt": "V",
    "liter": "L", "litre": "L", "minute": "min", "hour": "h", "day": "d", "inch": "in", "inche": "in", "feet": "ft",
    "foot": "ft", "yard": "yd", "mile": "mi", "pound": "lb", "ounce": "oz", "tonne": "t", "percent": "%",
    "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "millimetre": "mm", "kilogram": "kg", "milligram": "mg", "milliliter": "mL", "millilitre": "mL", "kilojoule": "kJ",
    "kilowatt": "kW", "millisecond": "ms",
}  # fmt: skip
_FACTOR = re.compile(
    r"\s{0,2}(?P<by>[*/\N{MIDDLE DOT}\N{MULTIPLICATION SIGN}]|per\b|)\s{0,2}"
    r"(?P<name>\N{DEGREE SIGN}[CF]|[%\N{OHM SIGN}]|[^\W\d_\u00b2\u00b3]{1,12})"
    r"(?:\^?(?P<power>-?\d)(?!\d)|(?P<raised>[\u00b2\u00b3]))?"
)
_RAISED = {"\u00b2": "2", "\u00b3": "3"}
_TERM = re.compile(r"([A-Za-z]+)(-?\d*)")


class Unit(NamedTuple):
    """A product of powers: `factor` times base units."""

    factor: Decimal
    powers: tuple[int, ...]
    """By DIMENSIONS."""


NONE = Unit(Decimal(1), (0,) * len(DIMENSIONS))


def leading_unit(text: str) -> Unit | None:
    """Return the unit that a text begins with, as "km/h" or "N*m^2", None where it begins with none."""
    found: Unit | None = None
    position = 0
    for _ in range(MAX_FACTORS):
        match = _FACTOR.match(text, position)
        if match is None:
            break
        unit, by = _unit(match["name"]), match["by"]
        if unit is None or (by == "" if found else by != ""):
            break
        power = int(match["power"] or _RAISED.get(match["raised"], "1"))
        found = _times(found or NONE, unit, -power if by in ("/", "per") else power)
        position = match.end()
    return found


def _unit(name: str) -> Unit | None:
    name = _NAMES.get(name.lower(), _NAMES.get(name.lower().removesuffix("s"), name))
    if name in _WHOLE:
        return _parsed(_WHOLE[name])
    for prefix, exponent in _PREFIXES.items():
        if name.startswith(prefix) and name[len(prefix) :] in _PREFIXED:
            unit = _parsed(_PREFIXED[name[len(prefix) :]])
            return Unit(unit.factor.scaleb(exponent), unit.powers)
    return None


def _parsed(text: str) -> Unit:
    factor, _, terms = text.partition(" ")
    powers = {name: int(power or 1) for name, power in _TERM.findall(terms)}
    return Unit(Decimal(factor), tuple(powers.get(dimension, 0) for dimension in DIMENSIONS))


def _times(one: Unit, other: Unit, power: int) -> Unit:
    factor = one.factor * other.factor**power
    return Unit(factor, tuple(a + power * b for a, b in zip(one.powers, other.powers, strict=True)))

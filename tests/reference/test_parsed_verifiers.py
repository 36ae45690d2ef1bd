"""Verifiers of answers that must be read first, numbers with units and JSON: tables worked out by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verifying import abstains, sample, value

from buffers.scores import ScoreStatus
from rewards.verifiers.json_schema import JsonSchema
from rewards.verifiers.json_schema_judge import parse
from rewards.verifiers.numeric import Numeric
from rewards.verifiers.units import leading_unit

# Numbers with units -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("1.5 km", "1500 m", 1.0),
        ("1500", "1500 m", 0.0),
        ("1500 s", "1500 m", 0.0),
        ("1500 m", "1500", 1.0),
        ("90 km/h", "25 m/s", 1.0),
        ("25 m s^-1", "90 km/h", 0.0),  # a blank joins nothing: too easily the next word
        ("25 m*s^-1", "90 km/h", 1.0),
        ("90 kilometers per hour", "25 m/s", 1.0),
        ("9.81 m/s^2", "9.81 N/kg", 1.0),
        ("9.81 m/s\N{SUPERSCRIPT TWO}", "9.81 m/s2", 1.0),
        ("2 kWh", "7.2 MJ", 1.0),
        ("50 %", "0.5 %", 0.0),
        ("36 in", "1 yd", 1.0),
        ("20 \N{DEGREE SIGN}C", "20 K", 0.0),
        ("20 \N{DEGREE SIGN}C", "20\N{DEGREE SIGN}C", 1.0),
        ("3 L of water", "3000 cm^3", 1.0),
        ("1e3 mA", "1 A", 1.0),
    ],
)
def test_a_number_needs_a_unit_of_the_same_kind(completion: str, answer: str, expected: float) -> None:
    assert value(Numeric(units=True), completion, answer) == expected


def test_without_units_the_same_texts_are_compared_as_numbers() -> None:
    assert value(Numeric(), "1500 s", "1500 m") == 1.0


@given(
    amount=st.integers(1, 10**6),
    prefix=st.sampled_from(["k", "m", "M", "c"]),
    unit=st.sampled_from(["m", "s", "A", "g"]),
)
def test_a_prefix_moves_the_decimal_point(amount: int, prefix: str, unit: str) -> None:
    shift = {"k": 3, "m": -3, "M": 6, "c": -2}[prefix]
    if shift >= 0:
        assert value(Numeric(units=True), f"{amount}{'0' * shift} {unit}", f"{amount} {prefix}{unit}") == 1.0
    assert (
        value(Numeric(units=True, relative_tolerance=1e-9), f"{amount}e{shift} {unit}", f"{amount} {prefix}{unit}")
        == 1.0
    )


def test_units_of_hostile_length_are_read_in_no_time() -> None:
    leading_unit("Tm*" * 100_000)
    leading_unit("m" * 1_000_000)
    assert value(Numeric(units=True), "1 " + "Tm^9*" * 100_000, "1 m") == 0.0


# JSON -------------------------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ('{"name": "Ada", "age": 36}', 1.0),
        ('Here:\n```json\n{"name": "Ada"}\n```\nDone.', 1.0),
        ('{"name": "Ada", "age": -1}', 0.0),
        ('{"name": "Ada", "age": 3.5}', 0.0),
        ('{"age": 3}', 0.0),
        ('{"name": "Ada", "role": "x"}', 0.0),
        ('{"name": "Ada"} and more', 0.0),
        ('{"name": "Ada", "name": "Bob"}', 0.0),
        ('{"name": "Ada", "age": NaN}', 0.0),
        ('{"name": "Ada", "age": 1e999}', 0.0),
        ('{"name": "Ada", "age": ' + "9" * 10_000 + "}", 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_is_checked_against_its_schema(completion: str, expected: float) -> None:
    assert value(JsonSchema(schema=PERSON, deadline_s=30.0), completion) == expected


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 10_000])
def test_what_no_double_holds_is_no_json(number: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON|out of range|limit"):
        parse(f'{{"age": {number}}}', 8)


def test_json_deeper_than_asked_is_refused() -> None:
    assert parse("[[1]]", 3) == [[1]]
    with pytest.raises(ValueError, match="more than 2 levels"):
        parse("[[1]]", 2)


def test_a_schema_of_the_task_goes_first_and_one_that_is_none_abstains() -> None:
    component = JsonSchema(schema=PERSON, deadline_s=30.0)
    assert value(component, "3", schema={"type": "integer"}) == 1.0
    assert "no JSON schema" in abstains(component, "3", schema={"type": "number of things"}).detail
    abstains(JsonSchema(deadline_s=30.0), "3")


def test_a_pattern_that_backtracks_for_ever_is_a_timeout() -> None:
    component = JsonSchema(schema={"type": "string", "pattern": "^(a+)+$"}, deadline_s=0.5)
    component.warm(1)
    (score,) = component.score([sample(json.dumps("a" * 64 + "b"))])
    assert score.status is ScoreStatus.TIMEOUT

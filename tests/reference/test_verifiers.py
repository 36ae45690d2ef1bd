"""The verifiers against tables worked out by hand and against the formulas of their sources."""

from __future__ import annotations

import json
from typing import Any

import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.verifiers.exact_match import ExactMatch
from rewards.verifiers.format import Format
from rewards.verifiers.length import LengthPenalty, SoftOverlong
from rewards.verifiers.numeric import Numeric, last_number
from rewards.verifiers.reasoning_gym import ReasoningGym
from rewards.verifiers.symbolic import MathEqual


def sample(completion: str = "", answer: str = "", **fields: Any) -> Sample:
    return Sample(id="s", group="g", prompt="", completion=completion, answer=answer, **fields)


def value(component: Component, completion: str, answer: str = "", **fields: Any) -> float | None:
    (score,) = component.score([sample(completion, answer, **fields)])
    return score.value


def invalid(component: Component, *args: str, **fields: Any) -> Score:
    (score,) = component.score([sample(*args, **fields)])
    assert score.value is None
    return score


@pytest.mark.parametrize(
    ("settings", "completion", "answer", "expected"),
    [
        ({}, " 42\n", "42", 1.0),
        ({}, "42", "42 ", 1.0),
        ({}, "4 2", "42", 0.0),
        ({}, "Paris", "paris", 0.0),
        ({"strip": False}, "42 ", "42", 0.0),
        ({"ignore_case": True}, "STRASSE", "straße", 1.0),
        ({"last_line": True}, "3+4=7\n3+4=7\n # 7\n\n", "3+4=7\n# 7", 1.0),
        ({"last_line": True}, "# 7\n3+4=7", "3+4=7\n# 7", 0.0),
        ({"last_line": True}, "3+4=7\n# 7", "3+4=7\n# 8", 0.0),
        ({"last_line": True}, "# 7", "# 7", 1.0),
        ({"last_line": True, "strip": False}, "3+4=7\n # 7", "# 7", 0.0),
    ],
)
def test_exact_match_compares_texts(settings: dict[str, Any], completion: str, answer: str, expected: float) -> None:
    assert value(ExactMatch(**settings), completion, answer) == expected


@pytest.mark.parametrize("component", [ExactMatch(), Numeric(), MathEqual()])
def test_without_a_reference_a_verifier_abstains(component: Component) -> None:
    assert invalid(component, "42", "").status is ScoreStatus.ABSTAINED


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so x = 12.", "12"),
        ("-3", "-3"),
        ("10-3", "3"),
        ("f(2)-3", "3"),
        ("10 - 3 = 7", "7"),
        ("\N{MINUS SIGN}4 °C", "-4"),
        ("$1,234,567.5 in all", "1234567.5"),
        ("1,2345", "2345"),
        ("in 1999,2000", "2000"),
        ("2e-3 m/s", "0.002"),
        ("about 3/4 of it", "0.75"),
        ("1/0", None),
        (".5", "0.5"),
        ("x2", "2"),
        ("1e999999999999", None),
        ("none at all", None),
        ("7 and then \u0667", "7"),
    ],
)
def test_the_last_number_of_a_text_is_found(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (found is None) == (number is None)
    assert found is None or float(found) == float(number or 0)


@given(whole=st.integers(-(10**40), 10**40), decimals=st.integers(0, 30), before=st.sampled_from(["", "= ", "5 and "]))
def test_every_printed_number_is_read_back_exactly(whole: int, decimals: int, before: str) -> None:
    text = f"{whole:,}" + (f".{decimals:02d}" if decimals else "")
    assert str(last_number(f"{before}{text} apples")) == text.replace(",", "")


@pytest.mark.parametrize(
    ("settings", "completion", "answer", "expected"),
    [
        ({}, "it is 0.3333333", "1/3", 1.0),
        ({}, "it is 0.3333", "1/3", 0.0),
        ({"absolute_tolerance": 0.5}, "10.5", "10", 1.0),
        ({"absolute_tolerance": 0.5}, "10.6", "10", 0.0),
        ({"relative_tolerance": 0.01}, "101", "100", 1.0),
        ({"relative_tolerance": 0.01}, "-101", "-100", 1.0),
        ({"relative_tolerance": 0.01}, "101.1", "100", 0.0),
        ({"absolute_tolerance": 0.0}, "12345678901234567891", "12345678901234567890", 0.0),
        ({}, "no idea", "3", 0.0),
        ({}, "1e999999999", "3", 0.0),
    ],
)
def test_numeric_compares_within_the_larger_tolerance(
    settings: dict[str, float], completion: str, answer: str, expected: float
) -> None:
    assert value(Numeric(**settings), completion, answer) == expected


@pytest.mark.timeout(20)
def test_reading_a_number_takes_linear_time_on_hostile_text() -> None:
    for hostile in ("9" * 300_000, "1," * 150_000, "1,111" * 60_000, "9e" * 150_000, "1/" * 150_000):
        last_number(hostile)


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("The answer is $\\frac{1}{2}$.", "1/2", 1.0),
        ("\\boxed{0.5}", "\\frac{1}{2}", 1.0),
        ("so $x = (a+b)^2$", "$x = a^2 + 2ab + b^2$", 1.0),
        ("$\\{2, 1\\}$", "\\{1, 2\\}", 1.0),
        ("$\\sqrt{8}$", "2\\sqrt{2}", 1.0),
        ("$\\frac{1}{3}$", "1/2", 0.0),
        ("I do not know", "1/2", 0.0),
    ],
)
def test_math_judges_equality_not_spelling(completion: str, answer: str, expected: float) -> None:
    assert value(MathEqual(deadline_s=20.0), completion, answer) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think> <answer>b</answer>", 1.0),
        ("<think></think><answer></answer>trailing", 1.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think>", 0.0),
        ("<think><answer></think></answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("</think><think><answer></answer>", 0.0),
    ],
)
def test_tags_must_occur_once_each_and_in_order(text: str, expected: float) -> None:
    assert value(Format(tags=["think", "answer"]), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("answer:\n42", 1.0), ("answer: x", 0.0), ("an answer: 4", 0.0), ("answer: 4!", 0.0)]
)
def test_a_pattern_must_match_the_whole_completion(text: str, expected: float) -> None:
    assert value(Format(pattern=r"answer:.\d+", deadline_s=20.0), text) == expected


@given(tokens=st.integers(0, 400), maximum=st.integers(1, 200), share=st.floats(0.01, 1.0))
def test_soft_overlong_is_the_three_cases_of_its_paper(tokens: int, maximum: int, share: float) -> None:
    cache = max(1, int(share * maximum))
    if tokens <= maximum - cache:
        expected = 0.0
    elif tokens <= maximum:
        expected = ((maximum - cache) - tokens) / cache
    else:
        expected = -1.0
    component = SoftOverlong(max_completion_length=maximum, cache_tokens=cache)
    assert value(component, "", num_tokens=tokens) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0.0), (10, 0.0), (11, -0.1), (20, -1.0), (40, -3.0)])
def test_the_length_penalty_starts_at_its_target(tokens: int, expected: float) -> None:
    assert value(LengthPenalty(target_tokens=10), "", num_tokens=tokens) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dataset", ["basic_arithmetic", "countdown", "mini_sudoku"])
def test_reasoning_gym_scores_like_the_generator_itself(dataset: str) -> None:
    generator = reasoning_gym.create_dataset(dataset, size=2, seed=3)
    component = ReasoningGym(deadline_s=20.0)
    for entry in generator:
        metadata = json.loads(json.dumps({"dataset": dataset, "entry": entry}))
        solution = entry["answer"] or entry["metadata"]["expression"]
        for answer in (solution, "17", f"{solution} or so", ""):
            assert value(component, f" {answer}\n", metadata=metadata) == generator.score_answer(answer, entry)
        assert value(component, solution, metadata=metadata) == 1.0


def test_reasoning_gym_takes_the_last_tagged_answer() -> None:
    component = ReasoningGym(answer_tag="answer", deadline_s=20.0)
    metadata = {"dataset": "basic_arithmetic", "entry": {"answer": "7", "metadata": {}}}
    assert value(component, "<answer>8</answer> no, <answer> 7 </answer>.", metadata=metadata) == 1.0
    assert value(component, "<answer>7</answer> no, <answer>8</answer>", metadata=metadata) == 0.0
    assert value(component, "7 </answer>", metadata=metadata) == 0.0


def test_reasoning_gym_abstains_from_tasks_of_other_sources() -> None:
    score = invalid(ReasoningGym(), "7", metadata={"dataset": "basic_arithmetic"})
    assert score.status is ScoreStatus.ABSTAINED and "metadata lacks" in score.detail


def test_an_unknown_generator_is_an_error_with_its_name() -> None:
    score = invalid(ReasoningGym(deadline_s=20.0), "7", metadata={"dataset": "no_such", "entry": {}})
    assert score.status is ScoreStatus.ERROR and "no_such" in score.detail


@pytest.mark.parametrize(
    ("component", "settings", "message"),
    [
        (Format, {"pattern": "(a"}, r"pattern is '\(a', no regular expression"),
        (Format, {"tags": ["<think>"]}, r"tags is \['<think>'\]; it must be a list of names without brackets"),
        (Format, {"tags": "think"}, "tags is 'think'; it must be a list"),
        (Format, {}, "tags and pattern are both empty"),
        (Format, {"tags": ["a"], "deadline_s": 0.0}, r"deadline_s is 0.0; it must be > 0"),
        (MathEqual, {"deadline_s": -1.0}, r"deadline_s is -1.0; it must be > 0"),
        (Numeric, {"absolute_tolerance": -1e-3}, r"absolute_tolerance is -0.001; it must be a finite number >= 0"),
        (Numeric, {"relative_tolerance": float("nan")}, "relative_tolerance is nan"),
        (ReasoningGym, {"deadline_s": 0.0}, "deadline_s is 0.0"),
        (ReasoningGym, {"answer_tag": "<a>"}, "answer_tag is '<a>'; it must be a name without brackets"),
        (LengthPenalty, {"target_tokens": 0}, "target_tokens is 0; it must be >= 1"),
        (SoftOverlong, {"max_completion_length": 4, "cache_tokens": 5}, r"cache_tokens is 5; it must lie in \[1, "),
    ],
)
def test_a_bad_setting_is_refused_with_its_name(component: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component(**settings)

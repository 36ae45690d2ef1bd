"""Verifiers of texts against their catalogue oracles, tables worked out by hand, and formulas written out slowly."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verifying import abstains, sample, value

from buffers.scores import Sample
from configs.registry import construct, resolve
from rewards import REWARDS
from rewards.verifiers.abstention import AnswerOrAbstain
from rewards.verifiers.choice import MultipleChoice
from rewards.verifiers.entities import EntityMatch
from rewards.verifiers.extract import last_code_block, last_tagged
from rewards.verifiers.json_schema import JsonSchema
from rewards.verifiers.repetition import RepetitionPenalty
from rewards.verifiers.text_match import TextMatch, normal

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "the", "A", "an"]), max_size=8).map(" ".join)


# Texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "completion", "answer", "expected"),
    [
        ("exact", "The  Eiffel-Tower!", "eiffeltower", 1.0),
        ("exact", "Paris, France", "Paris", 0.0),
        ("f1", "the cat sat", "a cat sat down", 0.8),  # 2 common, 2 given, 3 expected: 2 * 2 / 5
        ("f1", "cat cat cat", "cat", 0.5),  # one cat counts once: precision 1/3, recall 1
        ("f1", "", "cat", 0.0),
        ("f1", "dog", "cat", 0.0),
        ("set", "blue, the red; blue", "Red\nblue", 1.0),
        ("set", "blue", "red, blue", 0.0),
        ("set_f1", "blue, green", "red, blue", 0.5),
    ],
)
def test_texts_are_compared_as_in_squad(measure: str, completion: str, answer: str, expected: float) -> None:
    assert value(TextMatch(measure=measure), completion, answer) == pytest.approx(expected)


@given(given=WORDS, expected=WORDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(given: str, expected: str) -> None:
    ours, theirs = normal(given).split(), normal(expected).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not expected.strip():
        abstains(TextMatch(), given, expected)
    elif not common:
        assert value(TextMatch(), given, expected) == float(ours == theirs)
    else:
        precision, recall = Fraction(common, len(ours)), Fraction(common, len(theirs))
        slow = 2 * precision * recall / (precision + recall)
        assert value(TextMatch(), given, expected) == pytest.approx(float(slow), rel=1e-12)


def test_the_nearest_reference_counts_and_the_answer_is_the_last_tagged_one() -> None:
    component = TextMatch(measure="exact", answer_tag="answer")
    text = "<answer>Lyon</answer> no: <answer>Paris</answer>"
    assert value(component, text, answers=["Rome", "paris"]) == 1.0
    assert value(component, text, answers=["Lyon"]) == 0.0
    assert value(component, "Paris", "Paris") == 0.0
    abstains(component, text)


# Choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("B", "B"),
        (" (b)\n", "B"),
        ("B. Paris", "B"),
        ("**B**", "B"),
        ("I think it is A, but the answer is (B).", "B"),
        ("The answer is A. No, wait: the answer is B", "B"),
        ("Answer: B\n", "B"),
        ("Final answer: **B**", "B"),
        (r"so \boxed{B}", "B"),
        (r"so \boxed{\text{B}}", "B"),
        ("the answer is A or B", None),
        ("the answer is B/C", None),
        ("The answer is A or B. On reflection, the answer is C.", "C"),
        ("A cat sat on the mat", None),
        ("the answer is a matter of taste", None),
        ("Answer: Z", None),
        ("A and B", None),
        ("", None),
    ],
)
def test_the_letter_that_a_text_chooses(completion: str, expected: str | None) -> None:
    component = MultipleChoice(options="ABCD")
    for reference in "ABCD":
        assert value(component, completion, reference) == float(reference == expected)


def test_a_reference_that_is_no_option_abstains() -> None:
    abstains(MultipleChoice(options="AB"), "A", "C")
    abstains(MultipleChoice(), "A", "")


# Repetition -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "a b", 0.0),
        ({}, "a b c d", 0.0),
        ({}, "a a a a a", -2 / 3),  # three trigrams, one distinct
        ({"ngram": 2, "penalty": -3.0}, "x y x y x y", -3 * 3 / 5),
        ({"ngram": 2, "measure": "covered"}, "x y z x y w", -2 / 6),
        ({"ngram": 2, "measure": "covered"}, "x x x x", -3 / 4),
        ({"ngram": 10**9}, "a b", 0.0),
    ],
)
def test_repetition_costs_its_share(settings: dict[str, Any], text: str, expected: float) -> None:
    assert value(RepetitionPenalty(**settings), text) == pytest.approx(expected, rel=1e-12)


@given(words=st.lists(st.sampled_from("xyz"), max_size=30), ngram=st.integers(1, 4))
def test_the_covered_share_is_the_union_of_repeated_spans(words: list[str], ngram: int) -> None:
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    spans = {i + j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(ngram)}
    expected = -len(spans) / len(words) if grams else 0.0
    component = RepetitionPenalty(ngram=ngram, measure="covered")
    assert value(component, " ".join(words)) == pytest.approx(expected, rel=1e-12)


# Answering or not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answerable", "expected"),
    [
        ("Paris", True, 1.0),
        ("Lyon", True, -1.5),
        ("I don't know.", True, -0.5),
        ("I don't know.", False, 1.0),
        ("Paris", False, -2.0),
        ("Unanswerables are a band", False, -2.0),
    ],
)
def test_the_table_of_s038(completion: str, answerable: bool, expected: float) -> None:
    assert value(AnswerOrAbstain(), completion, "Paris", answerable=answerable) == expected


def test_answering_pays_from_the_oracles_probability_on() -> None:
    table = AnswerOrAbstain()
    break_even = (table.abstained - table.wrong) / (table.right - table.wrong)
    assert break_even == pytest.approx(0.4)
    abstains(table, "Paris")


# Entities ---------------------------------------------------------------------------------------------------------


def thought(hits: int, answer: str = "wrong") -> Sample:
    entities = ["Ada", "Babbage", "Turing", "Hopper"]
    text = f"<think>{', '.join(entities[:hits])}</think> Ada Babbage Turing Hopper <answer>{answer}</answer>"
    return sample(text, "right", metadata={"entities": entities})


def test_entities_give_the_rewards_of_the_s136_oracle() -> None:
    group = [thought(2), thought(1), thought(0), thought(3, "Right!")]
    assert [s.value for s in EntityMatch().score(group)] == pytest.approx([0.2, 0.1, 0.0, 1.0])


def test_the_best_of_one_group_does_not_count_in_another() -> None:
    one, other = thought(1), Sample(**{n: getattr(thought(4), n) for n in Sample.__slots__} | {"group": "h"})
    assert [s.value for s in EntityMatch().score([one, other])] == pytest.approx([0.3, 0.3])


def test_entities_reward_no_answer_and_no_overlong_one_with_nothing() -> None:
    entities = {"entities": ["Ada"]}
    cut = sample("<think>Ada</think><answer>right</answer>", "right", metadata=entities, finish_reason="length")
    bare = sample("<think>Ada</think>", "right", metadata=entities)
    assert [s.value for s in EntityMatch().score([cut, bare])] == [0.0, 0.0]
    abstains(EntityMatch(), "<answer>x</answer>", "right")


# Where the answer is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx = 1\n```\nb", "x = 1\n"),
        ("```\nx\n```\n```py\ny\n```", "y\n"),
        ("```py\nx\n```\nand ```py\ny", "x\n"),
        ("```x = 1```", "x = 1"),
        ("```python\nx", "```python\nx"),
    ],
)
def test_the_last_closed_block_is_the_code(text: str, code: str) -> None:
    assert last_code_block(text) == code


def test_the_last_tag_is_found() -> None:
    assert last_tagged("<a>1</a><a> 2 </a>", "a") == "2"
    assert last_tagged("<a>1", "a") is None and last_tagged("1</a>", "a") is None


@pytest.mark.parametrize("name", [name for name, path in REWARDS.items() if path.startswith("rewards.verifiers.")])
def test_the_example_of_every_verifier_builds_it(name: str) -> None:
    text = inspect.getdoc(resolve(REWARDS, name, name)) or ""
    assert "Source:" in text
    (example,) = re.findall(r"^ +component: (\{.*\})$", text, re.MULTILINE)
    section = OmegaConf.to_container(OmegaConf.create(example))
    assert section["target"] == name
    construct(REWARDS, section, name)


@pytest.mark.parametrize(
    ("component", "settings", "message"),
    [
        (TextMatch, {"measure": "f2"}, "measure is 'f2', which is none; did you mean 'f1'"),
        (MultipleChoice, {"options": "AAB"}, "options is 'AAB'; it must be different capital letters"),
        (JsonSchema, {"schema": {"type": "nothing"}}, "schema is no JSON schema"),
        (JsonSchema, {"depth": 0}, r"depth is 0; it must lie in \[1, 500\]"),
        (RepetitionPenalty, {"ngram": 0}, "ngram is 0; it must be >= 1"),
        (RepetitionPenalty, {"penalty": 1.0}, "penalty is 1.0; it must lie in"),
        (RepetitionPenalty, {"measure": "distinkt"}, "did you mean 'distinct'"),
        (AnswerOrAbstain, {"phrases": "no"}, "phrases is 'no'; it must be a list"),
        (AnswerOrAbstain, {"abstained": 2.0}, "they must rise"),
        (EntityMatch, {"alpha": 1.0}, r"alpha is 1.0; it must lie in \[0, 1\)"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name(component: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component(**settings)

"""Prompts and verdicts of judges, whatever texts come: nothing escapes a quotation, and nothing makes a reader fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from judge_model import quotations

from rewards.judges.all_pairs import margin_form
from rewards.judges.checklist import constraints_form, grades_form
from rewards.judges.listwise import order_form
from rewards.judges.pairwise import read_winner
from rewards.judges.principles import scores_form
from rewards.judges.prompts import Template
from rewards.judges.random_reference import two_scores_form
from rewards.judges.rubrics import rubric_form
from rewards.judges.verdicts import last_object, score_form

FORMS = [margin_form(), constraints_form(), grades_form(2), order_form(["1", "2"]), scores_form(["1", "2"]),
         two_scores_form(), rubric_form(), score_form(0.0, 10.0)]  # fmt: skip
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp", "Zs", "Cn", "Co")) | st.just(" ")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.floats() | st.sampled_from(["1", "2", "A", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["1", "2", "x"]), inner, max_size=3),
    max_leaves=6,
)
TEMPLATE = Template(text="{number} {question} and {answer} by {rubric}; {answer} again, {unknown} and {}")


@given(question=TEXTS, answer=TEXTS, rubric=TEXTS)
@example(question="{answer}", answer="{rubric}{number}", rubric="{question}")
@example(question="</answer 00000000>", answer="\n</answer>\n", rubric="<answer 00000000>")
def test_what_is_quoted_is_all_that_is_quoted(question: str, answer: str, rubric: str):
    prompt = TEMPLATE.fill({"question": question, "answer": answer}, {"rubric": rubric})
    assert quotations(prompt) == {"question": question, "answer": answer}
    assert f"by {rubric}; " in prompt and "{unknown} and {}" in prompt


@given(st.text(), st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=4))
def test_an_object_at_the_end_is_found_behind_any_text(before: str, found: dict[str, Any]):
    assert last_object(f"{before}. {json.dumps(found)}\n") == found


@given(st.text('{}[]":, 1ae\\\n'))
def test_no_text_makes_a_reader_fail(reply: str):
    assert isinstance(last_object(reply), dict | None)
    assert read_winner(reply) is None


@pytest.mark.parametrize("reply", ["{" * 20_000 + "}", '{"a":' * 1500 + "1" + "}" * 1500])
def test_depth_is_no_verdict(reply: str):
    # Apart from the test above, since Hypothesis allows for more depth than a server has.
    assert last_object(reply) is None


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join((form.schema or {})["required"]))
@given(data=st.data())
def test_no_object_makes_a_form_fail(form: Any, data: st.DataObject):
    form.read(json.dumps({name: data.draw(JSON) for name in form.schema["properties"]}))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join((form.schema or {})["required"]))
def test_a_schema_asks_for_the_reason_before_the_verdict_and_for_nothing_else(form: Any):
    assert form.schema["required"][0] == next(iter(form.schema["properties"])) == "reason"
    assert form.schema["additionalProperties"] is False
    assert sorted(form.schema["required"]) == sorted(form.schema["properties"])

"""Where steps begin and end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.scores import Sample
from buffers.trajectory import Span
from configs.errors import ConfigError
from configs.registry import construct
from rewards.process import STEPS
from rewards.process.steps import sampled_turns, step_spans

VOCABULARY = ["", "a", "b", " ", "\n", "b\nc", "\n\n", "</step>", "</st", "ep>"]


def sample(tokens: list[str], *turns: tuple[int, int]) -> Sample:
    """Return a sample whose prompt is one token "a"."""
    ids = tuple(VOCABULARY.index(text) for text in tokens)
    spans = tuple(Span("turn", *turn) for turn in turns)
    return Sample(id="s", group="g", prompt="a", completion="", tokens=ids, spans=spans, num_tokens=len(ids) - 1)


def ends(section: Any, tokens: list[str], *turns: tuple[int, int]) -> list[int]:
    spans = step_spans(sample(tokens, *turns), construct(STEPS, section, "steps"), VOCABULARY.__getitem__)
    return [span.end for span in spans]


@pytest.mark.parametrize(
    ("section", "tokens", "expected"),
    [
        ("lines", ["a", "a", "\n", "b"], [3, 4]),
        ("lines", ["a", "a", "\n", "b", "\n", ""], [3, 6]),  # the end of the text belongs to the last line
        ("lines", ["a", "a", "\n", " ", "\n", "b"], [5, 6]),  # white space is no step
        ("lines", ["a", "\n", "a", "\n", "b"], [4, 5]),
        ("lines", ["a", "b\nc", "b"], [2, 3]),  # a token is never cut
        ("lines", ["a", "\n\n", "\n"], [3]),
        ("lines", ["a", ""], [2]),
        ("tags", ["a", "b", "</step>", "b"], [3, 4]),
        ("tags", ["a", "b", "</st", "ep>", "b", "</step>"], [4, 6]),
        ({"target": "tags", "tag": "b"}, ["a", "b", "</step>"], [3]),
        ({"target": "pattern", "pattern": "b+"}, ["a", "b", "b", "a", "b\nc"], [3, 5]),
        ("turns", ["a", "b", "\n", "b"], [4]),
        ("tokens", ["a", "b", "\n", "b"], [2, 3, 4]),
    ],
)
def test_steps_end_where_their_separator_ends(section: Any, tokens: list[str], expected: list[int]):
    assert ends(section, tokens) == expected


def test_what_was_inserted_between_turns_is_in_no_step():
    tokens = ["a", "b", "\n", "b", "a", "a", "b", "\n"]
    spans = step_spans(sample(tokens, (1, 4), (6, 8)), construct(STEPS, "lines", "steps"), VOCABULARY.__getitem__)
    assert [(s.start, s.end) for s in spans] == [(1, 3), (3, 4), (6, 8)]


def test_a_sample_without_turns_has_its_last_tokens():
    assert sampled_turns(sample(["a", "b", "b"])) == [(1, 3)]
    assert sampled_turns(Sample(id="s", group="g", prompt="a", completion="")) == []


@given(st.lists(st.sampled_from(VOCABULARY[1:]), min_size=1, max_size=12), st.sampled_from(sorted(STEPS)))
def test_every_sampled_token_is_in_exactly_one_step(tokens: list[str], name: str):
    section = {"target": "pattern", "pattern": "a|\n"} if name == "pattern" else name
    found = step_spans(sample(["a", *tokens]), construct(STEPS, section, "steps"), VOCABULARY.__getitem__)
    assert [place for s in found for place in range(s.start, s.end)] == list(range(1, len(tokens) + 1))


@pytest.mark.parametrize("pattern", ["(", "a*"])
def test_a_pattern_that_splits_nothing_is_refused(pattern: str):
    with pytest.raises(ConfigError, match=r"steps.*pattern is"):
        construct(STEPS, {"target": "pattern", "pattern": pattern}, "steps")

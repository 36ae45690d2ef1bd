"""Process rewards against the catalogue's numbers, and against the formulas of their papers written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from buffers.consistency import balanced, consistencies
from buffers.trajectory import Span
from configs.registry import resolve
from rewards.process import AGGREGATES
from rewards.process.implicit import span_sums
from rewards.process.information import gains
from rewards.process.merging import fused, merged_steps
from rewards.process.prover import best_of
from rewards.process.shaping import clip, delta, soft_minimum

SCORES = [0.9, 0.8, 0.9, 0.2, 0.6]
scores = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=12)


def to_go(rewards: list[float]) -> list[float]:
    return [math.fsum(rewards[k:]) for k in range(len(rewards))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("minimum", 0.2), ("product", 0.9 * 0.8 * 0.9 * 0.2 * 0.6), ("last", 0.6), ("mean", 0.68), ("total", 3.4)],
)
def test_aggregates(name: str, expected: float):
    assert resolve(AGGREGATES, name, "test")(SCORES) == pytest.approx(expected, abs=1e-12)


def test_clip_and_delta_give_the_numbers_of_the_catalogue():
    assert clip(SCORES, 0.5) == pytest.approx([0, 0, 0, -0.3, 0])
    assert delta(SCORES) == pytest.approx([0.1, -0.1, 0.7, 0.2, 0])
    assert to_go(delta(SCORES)) == pytest.approx([0.9, 0.8, 0.9, 0.2, 0])
    assert delta(clip(SCORES, 0.5)) == pytest.approx([0, 0, 0.3, -0.3, 0])


@given(scores)
def test_the_return_of_delta_from_a_step_is_its_own_score_whatever_follows(values: list[float]):
    expected = [*values[:-1], 0.0]
    assert to_go(delta(values)) == pytest.approx(expected, abs=1e-9)


@given(scores, st.floats(-1, 1))
def test_no_step_added_behind_raises_a_clipped_return(values: list[float], threshold: float):
    assert max(clip(values, threshold)) <= 0.0
    assert sum(clip([*values, 1.0], threshold)) <= sum(clip(values, threshold)) + 1e-12


def test_the_soft_minimum_gives_the_numbers_of_the_catalogue():
    values = soft_minimum([0.9, 0.8, -0.5, 0.7], 0.1)
    assert sum(values) == pytest.approx(-0.499989, abs=1e-6)
    assert to_go(values) == pytest.approx([-0.49999, -0.49999, -0.49999, 0.000004], abs=2e-6)


@given(scores, st.floats(0.05, 2.0))
def test_the_soft_minimum_is_the_softmax_of_the_paper(values: list[float], temperature: float):
    weights = torch.softmax(torch.tensor(values, dtype=torch.float64) / -temperature, 0)
    expected = (weights * torch.tensor(values, dtype=torch.float64)).tolist()
    assert soft_minimum(values, temperature) == pytest.approx(expected, abs=1e-12)


@given(scores)
def test_at_a_low_temperature_the_whole_return_is_the_worst_score(values: list[float]):
    assert sum(soft_minimum(values, 1e-3)) == pytest.approx(min(values), abs=0.02)


def test_nothing_comes_of_nothing():
    assert clip([], 0.5) == delta([]) == soft_minimum([], 0.1) == []
    assert delta([0.7]) == [0.0]


def test_implicit_rewards_give_the_numbers_of_the_catalogue():
    ratios = torch.tensor([0.5, -0.2, 0.1, -0.4, 0.6])
    sums = span_sums(ratios, [Span("step", 0, 2), Span("step", 2, 5)])
    assert [0.05 * q for q in sums] == pytest.approx([0.015, 0.015])
    reward = 0.05 * float(ratios.sum())
    assert math.log(1 + math.exp(-reward)) == pytest.approx(0.6783, abs=1e-4)
    assert math.log(1 + math.exp(reward)) == pytest.approx(0.7083, abs=1e-4)


def test_progress_telescopes():
    chances = [0.2, 0.5, 0.5, 0.9]
    steps = [after - before for before, after in itertools.pairwise(chances)]
    assert steps == pytest.approx([0.3, 0, 0.4]) and sum(steps) == pytest.approx(0.7)
    assert [best_of(p, 4) for p in (0.0, 0.5, 1.0)] == [0.0, 1 - 0.5**4, 1.0]


def test_information_gain_gives_the_numbers_of_the_catalogue():
    assert gains([-2.5, -1.5, -0.4]) == pytest.approx([0.1410, 0.4472], abs=5e-5)
    assert gains([-2.5]) == []


def test_merged_steps_leave_out_one_end_each():
    assert merged_steps([3, 7, 9]) == [[7], [3, 9]]
    assert merged_steps([3]) == []
    assert fused([0.2, 0.4, 1.0], [0.8, 0.0]) == pytest.approx([0.2, 0.6, 0.5])
    with pytest.raises(ValueError, match="one for each step but the first"):
        fused([0.2, 0.4], [0.1, 0.2])


STEPS = [
    [0.9, 0.8],
    [0.2, 0.4, 0.3],
    [0.95],
    [0.7, 0.9, 0.8],
    [0.6, 0.5],
    [0.99, 0.97, 0.98],
    [0.8, 0.7],
    [0.1, 0.3, 0.2],
]
RIGHT = [True] * 6 + [False] * 2


def test_consistency_gives_the_numbers_of_the_catalogue():
    found = consistencies(STEPS, RIGHT, penalty=10.0, max_steps=30)
    assert found == pytest.approx([0.85, 0.3, -9.05, 0.8, 0.55, 0.98, 0.75, 0.2])
    assert balanced(found, RIGHT, 4) == [0, 5, 6, 7]
    assert balanced(found, RIGHT, 6) == [0, 3, 4, 5, 6, 7]
    [alone] = consistencies([[0.1]], [False], penalty=10.0, max_steps=30)
    assert alone == pytest.approx(10.1), "a wrong answer of one step is the first wrong one to go"


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 12), st.randoms())
def test_what_is_kept_is_as_even_as_it_can_be(right: list[bool], keep: int, random):
    keep = min(keep, len(right))
    kept = balanced([random.random() for _ in right], right, keep)
    good, bad = sum(right), len(right) - sum(right)
    splits = [(k, keep - k) for k in range(keep + 1) if k <= good and keep - k <= bad]
    chosen = sum(right[i] for i in kept)
    assert len(kept) == len(set(kept)) == keep
    assert chosen * (keep - chosen) == max(a * b for a, b in splits)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=10))
def test_of_the_right_the_most_and_of_the_wrong_the_least_consistent_are_kept(members: list[tuple[bool, float]]):
    right, found = [ok for ok, _ in members], [c for _, c in members]
    kept = set(balanced(found, right, max(1, len(members) // 2)))
    for i, j in itertools.permutations(range(len(members)), 2):
        if i in kept and j not in kept and right[i] == right[j]:
            assert found[i] >= found[j] if right[i] else found[i] <= found[j]

"""Advantages from the rewards of steps against the papers' formulas and worked examples, in float64."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.registry import resolve
from learners.advantages import ADVANTAGES
from learners.advantages.outcome import GroupCentred, GroupNormalised, LeaveOneOut
from learners.advantages.process_minimum import ProcessMinimum, minimum_form
from learners.advantages.process_normalised import ProcessNormalised
from learners.advantages.process_return import ProcessReturn
from learners.feedback import Feedback

Steps = dict[int, float]
"""Loss token that ends a step -> its reward."""
PROCESS = [name for name in ADVANTAGES if name.startswith("process_")]

# Group 0: three solutions, one of them without a valid score, one padded. Group 1: two, of which one has no
# step at all. Group 2: alone.
LENGTHS = [4, 3, 4, 2, 3, 2]
GROUPS = [0, 0, 0, 1, 1, 2]
VALID = [True, True, False, True, True, True]
OUTCOMES = [1.0, 0.0, 99.0, 0.5, 2.0, 7.0]
STEPS: list[Steps] = [{0: 0.9, 3: -0.4}, {1: 0.2, 2: 0.0}, {0: 55.0, 3: 66.0}, {1: 0.7}, {}, {0: 3.0, 1: 1.0}]


def feedback(
    steps: Sequence[Steps],
    lengths: Sequence[int],
    groups: Sequence[int],
    outcomes: Sequence[float] | None = None,
    valid: Sequence[bool] | None = None,
    absent: float = 0.0,
) -> Feedback:
    """Return feedback; `absent` stands in every place that no estimator may read."""
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ends = torch.tensor([[t in s for t in range(width)] for s in steps])
    rewards = torch.tensor([[s.get(t, 0.0) for t in range(width)] for s in steps], dtype=torch.float64)
    counted = torch.tensor(list(valid or [True] * len(steps)))
    outcome = torch.tensor(list(outcomes or [0.0] * len(steps)), dtype=torch.float64)
    return Feedback(
        outcome=torch.where(counted, outcome, absent),
        steps=torch.where(counted[:, None] & mask, rewards, absent),
        step_mask=ends,
        groups=torch.tensor(groups),
        valid=counted,
        mask=mask,
    )


def mixed(absent: float = 0.0) -> Feedback:
    return feedback(STEPS, LENGTHS, GROUPS, OUTCOMES, VALID, absent)


def members(group: int) -> list[int]:
    return [i for i, g in enumerate(GROUPS) if g == group and VALID[i]]


def rows(value: object) -> Tensor:
    """Return [B, T] of value(sequence, token), 0 on padding and where invalid."""
    grid = [[value(i, t) if VALID[i] and t < LENGTHS[i] else 0.0 for t in range(4)] for i in range(6)]
    return torch.tensor(grid, dtype=torch.float64)


def test_process_supervision_sums_the_steps_to_come_normalised_over_all_steps_of_the_group():
    def printed(i: int, t: int) -> float:
        rewards = [r for j in members(GROUPS[i]) for r in STEPS[j].values()]
        deviation = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
        return sum((r - statistics.fmean(rewards)) / (deviation + 1e-4) for end, r in STEPS[i].items() if end >= t)

    got = ProcessNormalised(outcome_weight=0.0)(mixed())
    torch.testing.assert_close(got, rows(printed), rtol=1e-12, atol=1e-15)


def test_process_supervision_can_stand_beside_the_outcome():
    alone = ProcessNormalised(outcome_weight=0.0, unbiased=False)(mixed())
    outcome = GroupNormalised(unbiased=False)(mixed())
    both = ProcessNormalised(outcome_weight=0.3, step_weight=0.7, unbiased=False)(mixed())
    torch.testing.assert_close(both, 0.3 * outcome + 0.7 * alone, rtol=1e-12, atol=1e-15)


def test_prime_subtracts_the_means_of_the_others_and_of_itself_as_released():
    def printed(i: int, t: int) -> float:
        means = [statistics.fmean(STEPS[j].values()) for j in members(GROUPS[i]) if STEPS[j]]
        n = len(means)
        if n < 2 or not STEPS[i]:
            return 0.0
        return sum(r * n / (n - 1) - sum(means) / (n - 1) for end, r in STEPS[i].items() if end >= t)

    got = ProcessReturn(outcome_weight=0.0, scale_steps=False, whiten=False)(mixed())
    torch.testing.assert_close(got, rows(printed), rtol=1e-12, atol=1e-15)


def test_prime_reproduces_the_worked_example():
    phi, ref = [[-0.5, -0.2, -0.1], [-0.4, -0.6, -0.3]], [[-0.7, -0.5, -0.2], [-0.3, -0.4, -0.2]]
    q = [{t: p - r for t, (p, r) in enumerate(zip(*pair, strict=True))} for pair in zip(phi, ref, strict=True)]
    asked = feedback(q, [3, 3], [0, 0], outcomes=[1.0, 0.0])
    process = ProcessReturn(outcome_weight=0.0, whiten=False)(asked)
    torch.testing.assert_close(
        process,
        torch.tensor([[1.6667, 1.1111, 0.2222], [-1.6667, -1.2222, -0.4444]], dtype=torch.float64),
        rtol=0,
        atol=1e-4,
    )
    whole = torch.tensor([[1.1676, 0.9293, 0.5481], [-1.1199, -0.9293, -0.5957]], dtype=torch.float64)
    torch.testing.assert_close(ProcessReturn()(asked), whole, rtol=0, atol=1e-4)


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_loss_tokens():
    got = ProcessReturn()(mixed())[mixed().trained]
    assert math.isclose(got.mean(), 0.0, abs_tol=1e-12) and math.isclose(got.var(), 1.0, rel_tol=1e-6)


def test_min_form_reproduces_the_worked_example():
    p = torch.tensor([[0.9, 0.8, -0.5, 0.7]], dtype=torch.float64)
    returns = minimum_form(p, torch.ones(1, 4, dtype=torch.bool), 0.1).flip(1).cumsum(1).flip(1)
    expected = torch.tensor([[-0.49999, -0.49999, -0.49999, 0.000004]], dtype=torch.float64)
    torch.testing.assert_close(returns, expected, rtol=0, atol=2e-6)


def test_the_baseline_of_min_form_reproduces_the_worked_example():
    asked = feedback([{3: -0.5}, {1: 0.6}], [4, 2], [0, 0])
    expected = torch.tensor([[-0.8] * 4, [1.1, 1.1, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(ProcessMinimum()(asked), expected, rtol=1e-12, atol=0)


def test_min_form_subtracts_the_returns_of_the_others_per_token_of_the_longest():
    def returns(i: int) -> list[float]:
        weights = {end: math.exp(-r / 0.3) for end, r in STEPS[i].items()}
        return [
            sum(w / sum(weights.values()) * STEPS[i][end] for end, w in weights.items() if end >= t)
            for t in range(LENGTHS[i])
        ]

    def printed(i: int, t: int) -> float:
        others = [j for j in members(GROUPS[i]) if j != i and STEPS[j]]
        if not others or not STEPS[i]:
            return 0.0
        return returns(i)[t] - sum(sum(returns(j)) for j in others) / (len(others) * 4)

    got = ProcessMinimum(outcome_weight=0.0, temperature=0.3)(mixed())
    torch.testing.assert_close(got, rows(printed), rtol=1e-12, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.integers(0, 5))
def test_at_low_temperature_the_return_is_the_smallest_step_and_padding_steps_add_nothing(rewards, fillers):
    good = [*rewards, *[1.0] * fillers]  # what repetition would add
    p = torch.tensor([good], dtype=torch.float64)
    total = minimum_form(p, torch.ones_like(p, dtype=torch.bool), 1e-3).sum()
    assert math.isclose(total, min(good), abs_tol=1e-2)


@pytest.mark.parametrize("name", PROCESS)
def test_what_is_invalid_or_padding_changes_nothing_even_when_it_is_nan(name):
    estimator = resolve(ADVANTAGES, name, "test")()
    got = estimator(mixed(absent=float("nan")))
    assert torch.equal(got, estimator(mixed()))
    assert not got[2].any() and not got[~mixed().trained].any()


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("process_normalised", GroupNormalised), ("process_return", LeaveOneOut), ("process_minimum", LeaveOneOut)],
)
def test_without_rewards_of_steps_the_outcome_alone_counts(name, outcome):
    settings = {"whiten": False} if name == "process_return" else {}
    asked = feedback([{}] * 6, LENGTHS, GROUPS, OUTCOMES, VALID)
    assert torch.equal(resolve(ADVANTAGES, name, "test")(**settings)(asked), outcome()(asked))


@pytest.mark.parametrize("name", PROCESS)
def test_the_outcome_has_its_own_baseline(name):
    """Adding a constant to all outcomes of a group changes nothing, whatever its steps are worth."""
    estimator = resolve(ADVANTAGES, name, "test")()
    shifted = feedback(STEPS, LENGTHS, GROUPS, [r + 5.0 * g for r, g in zip(OUTCOMES, GROUPS, strict=True)], VALID)
    torch.testing.assert_close(estimator(shifted), estimator(mixed()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_a_batch_without_any_valid_sequence_has_no_advantage(name):
    got = resolve(ADVANTAGES, name, "test")()(feedback(STEPS, LENGTHS, GROUPS, OUTCOMES, [False] * 6, float("nan")))
    assert got.shape == (6, 4) and not got.any()


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_an_empty_batch_has_no_advantage(name):
    empty = torch.zeros(0, 0, dtype=torch.float64)
    nothing = Feedback(
        outcome=empty[:, 0:].sum(1), steps=empty, step_mask=empty > 0, groups=torch.zeros(0, dtype=torch.int64),
        valid=torch.zeros(0, dtype=torch.bool), mask=empty > 0,
    )  # fmt: skip
    assert resolve(ADVANTAGES, name, "test")()(nothing).shape == (0, 0)


def test_estimators_of_outcomes_do_not_look_at_steps():
    for estimator in (GroupNormalised(), GroupCentred(), LeaveOneOut()):
        assert torch.equal(estimator(mixed()), estimator(feedback([{}] * 6, LENGTHS, GROUPS, OUTCOMES, VALID)))


def test_a_temperature_of_0_is_refused():
    with pytest.raises(ValueError, match=r"temperature is 0\.0; it must be > 0"):
        ProcessMinimum(temperature=0.0)

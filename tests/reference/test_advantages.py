"""Advantages against the printed formulas, in float64."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.registry import resolve
from learners.advantages import ADVANTAGES
from learners.advantages.outcome import GroupCentred, GroupNormalised, LeaveOneOut, spread
from learners.feedback import Feedback

# Three groups: one with an invalid member whose reward must not count, one without spread, one of one member.
REWARDS = torch.tensor([1.0, 0.0, 99.0, 0.5, 2.0, 2.0, 7.0], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 2])
VALID = torch.tensor([True, True, False, True, True, True, True])
MASK = torch.ones(7, 1, dtype=torch.bool)


def outcomes(rewards: Tensor, groups: Tensor = GROUPS, valid: Tensor = VALID, mask: Tensor = MASK) -> Feedback:
    """Feedback without rewards of steps."""
    steps = torch.zeros(mask.shape, dtype=torch.float64)
    return Feedback(outcome=rewards, steps=steps, step_mask=steps > 0, groups=groups, valid=valid, mask=mask)


def valid_rewards(group: int) -> list[float]:
    return [float(r) for r, g, v in zip(REWARDS, GROUPS, VALID, strict=True) if g == group and v]


def expected(formula) -> Tensor:
    """Apply a formula (reward, rewards of the group) to each valid member; 0 for the others."""
    rows = zip(REWARDS.tolist(), GROUPS.tolist(), VALID.tolist(), strict=True)
    return torch.tensor([[formula(r, valid_rewards(g)) if v else 0.0] for r, g, v in rows], dtype=torch.float64)


def leave_one_out(reward: float, group: list[float]) -> float:
    others = list(group)
    others.remove(reward)
    return reward - statistics.fmean(others) if others else 0.0


def test_group_normalised_divides_by_the_sample_deviation():
    def grpo(r: float, group: list[float]) -> float:
        deviation = statistics.stdev(group) if len(group) > 1 else 0.0
        return (r - statistics.fmean(group)) / (deviation + 1e-4)

    got = GroupNormalised()(outcomes(REWARDS))
    torch.testing.assert_close(got, expected(grpo), rtol=1e-12, atol=0)


def test_group_normalised_can_divide_by_the_population_deviation():
    def grpo(r: float, group: list[float]) -> float:
        return (r - statistics.fmean(group)) / (statistics.pstdev(group) + 0.5)

    got = GroupNormalised(eps=0.5, unbiased=False)(outcomes(REWARDS))
    torch.testing.assert_close(got, expected(grpo), rtol=1e-12, atol=0)


def test_group_centred_subtracts_the_mean_of_valid_members():
    got = GroupCentred()(outcomes(REWARDS))
    torch.testing.assert_close(got, expected(lambda r, g: r - statistics.fmean(g)), rtol=1e-12, atol=0)


def test_leave_one_out_subtracts_the_mean_of_the_other_valid_members():
    got = LeaveOneOut()(outcomes(REWARDS))
    torch.testing.assert_close(got, expected(leave_one_out), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_an_invalid_reward_changes_nothing_even_when_it_is_nan(name):
    estimator = resolve(ADVANTAGES, name, "test")()
    poisoned = torch.where(VALID, REWARDS, float("nan"))
    got = estimator(outcomes(poisoned))
    assert torch.equal(got, estimator(outcomes(REWARDS)))
    assert got[2] == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.floats(-5, 5))
def test_adding_a_constant_to_all_rewards_of_a_group_changes_no_advantage(rewards, shift):
    values = torch.tensor(rewards, dtype=torch.float64)
    groups, valid = torch.zeros(len(rewards), dtype=torch.int64), torch.ones(len(rewards), dtype=torch.bool)
    for estimator in (GroupCentred(), LeaveOneOut(), GroupNormalised(eps=0.1)):
        plain = estimator(outcomes(values, groups, valid, valid[:, None]))
        shifted = estimator(outcomes(values + shift, groups, valid, valid[:, None]))
        torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-9)


def test_spread_fills_the_loss_tokens_of_valid_sequences_only():
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    rewards = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    got = spread(rewards, outcomes(rewards, GROUPS[:3], torch.tensor([True, True, False]), mask))
    assert got.tolist() == [[1, 1], [2, 0], [0, 0]]


def test_rewards_and_groups_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        GroupCentred()(outcomes(REWARDS[:3]))

"""The maths of judges against the figures and formulas of their papers."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judges.all_pairs import complete_members, group_advantage
from rewards.judges.attacks import spread
from rewards.judges.checklist import length_share
from rewards.judges.log_odds import log_odds
from rewards.judges.pairwise import both_orders, read_winner
from rewards.judges.principles import ranking_accuracy
from rewards.judges.random_reference import is_outlier
from rewards.judges.votes import best, voted

FINITE = st.floats(-5, 5)


def differences(rewards: list[float]) -> list[list[float]]:
    return [[one - other for other in rewards] for one in rewards]


def test_all_pairs_advantage_of_a_table_of_margins():
    # d12 = 1, d13 = 3, d23 = 1: n = (4/3, 0, -4/3), denominator sqrt(22 / 12 + 1e-6).
    found = group_advantage([[0, 1, 3], [-1, 0, 1], [-3, -1, 0]])
    assert found == pytest.approx([0.9847, 0.0, -0.9847], abs=5e-5)


@given(st.lists(FINITE, min_size=2, max_size=8).filter(lambda r: statistics.stdev(r) > 0.1))
def test_all_pairs_advantage_of_differences_is_the_standardised_reward(rewards: list[float]):
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    expected = [(reward - mean) / deviation for reward in rewards]
    assert group_advantage(differences(rewards)) == pytest.approx(expected, abs=1e-3)


def test_all_pairs_advantage_of_four_rewards():
    found = group_advantage(differences([1, 0, -0.5, 2]))
    assert found == pytest.approx([0.3382, -0.5637, -1.0147, 1.2402], abs=5e-5)


def test_without_a_difference_there_is_no_advantage():
    assert group_advantage([[0.0, 0.0], [0.0, 0.0]]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("missing", "kept"),
    [
        ([], [0, 1, 2, 3]),
        ([(0, 1)], [1, 2, 3]),
        ([(1, 0), (1, 2), (1, 3)], [0, 2, 3]),  # one member lacks them all: it alone goes
        ([(0, 1), (2, 3)], [1, 3]),
        ([(i, j) for i in range(4) for j in range(i)], [3]),
    ],
)
def test_as_few_members_as_possible_go_for_the_comparisons_that_are_missing(
    missing: list[tuple[int, int]], kept: list[int]
):
    gone = {frozenset(pair) for pair in missing}
    known = {(i, j): 1.0 for i in range(4) for j in range(4) if i != j and frozenset((i, j)) not in gone}
    assert complete_members(4, known) == kept


def test_two_orders_agree_disagree_or_are_against():
    wins = {(a, b): both_orders(a, b) for a in "AB" for b in "AB"}
    assert wins == {("A", "B"): 1.0, ("B", "A"): 0.0, ("A", "A"): 0.5, ("B", "B"): 0.5}


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ("thought <answer>[[A]]</answer>", "A"),
        ("<answer>[[B]]</answer>\n", "B"),
        ("<answer>[[A]]</answer> or <answer>[[B]]</answer>", None),
        ("<answer>[[A]]</answer>" + "." * 80, None),
        ("<answer>[[B]]</answer>" + "." * 80 + "<answer>[[A]]</answer>", "A"),
        ("[[A]]", None),
        ("<answer>A</answer>", None),
        ("<answer>[[C]]</answer>", None),
        ("", None),
    ],
)
def test_a_winner_is_read_from_the_last_80_characters_alone(reply: str, winner: str | None):
    assert read_winner(reply) == winner


def test_a_random_reference_is_an_outlier_where_nearly_all_are_on_one_side():
    assert not is_outlier([-1, 1, -1, -1], 0.6)  # scores 7, 5, 8, 6, 5.5 with the first as reference: mean -0.5
    assert is_outlier([-1, -1, -1, -1], 0.6)  # with the third
    assert not is_outlier([1, 1, 1, 1, -1], 0.6)  # 0.6 itself is kept


def test_principled_rankings_are_scored_by_weighted_pairs():
    gold = {"A": 5, "B": 3, "C": 1}
    found = [
        ranking_accuracy(gold, dict(zip("ABC", given, strict=True))) for given in ((4, 2, 3), (3, 3, 1), (1, 3, 5))
    ]
    assert found == pytest.approx([0.727273, 0.863636, 0.0], abs=1e-6)
    assert ranking_accuracy(gold, gold) == 1.0


@given(st.permutations("ABCD"), st.lists(st.integers(1, 5), min_size=8, max_size=8))
def test_names_do_not_matter_to_the_accuracy_of_a_ranking(names: list[str], grades: list[int]):
    gold, given_ = dict(zip("ABCD", grades[:4], strict=True)), dict(zip("ABCD", grades[4:], strict=True))
    renamed = dict(zip("ABCD", names, strict=True))
    other = ({renamed[n]: g for n, g in gold.items()}, {renamed[n]: g for n, g in given_.items()})
    assert ranking_accuracy(*other) == pytest.approx(ranking_accuracy(gold, given_))


@pytest.mark.parametrize(("yes", "no", "expected"), [(0.8, 0.1, 2.0794), (0.4, 0.4, 0.0), (0.1, 0.8, -2.0794)])
def test_log_odds_of_yes_and_no(yes: float, no: float, expected: float):
    assert log_odds(yes, no) == pytest.approx(expected, abs=5e-5)
    assert math.isfinite(log_odds(yes, 0.0)) and math.isfinite(log_odds(0.0, no))


def test_votes_add_up_and_the_meta_judge_keeps_the_better_half():
    judgements = [[7, 5], [6, 8], [9, 4], [5, 6]]
    assert voted(judgements) == [27, 23]
    kept = best(2, [0.9, 0.1, 0.8, 0.2])
    assert kept == [0, 2] and voted([judgements[i] for i in kept]) == [16, 9]


@pytest.mark.parametrize(("words", "share"), [(300, 1.0), (150, 0.0), (450, 0.0), (225, 0.5), (375, 0.5), (0, 0.0)])
def test_the_length_part_is_a_triangle_around_the_target(words: int, share: float):
    assert length_share(words, 300, 0.5) == pytest.approx(share)


def test_a_constant_policy_has_no_spread_and_others_have():
    assert [spread([text] * 5) for text in ("", "Solution")] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert spread(["abcdef", "uvwxyz"]) == pytest.approx(1.0)
    assert 0.0 < spread(["the answer is 12", "the answer is 13"]) < spread(["the answer is 12", "I give up"]) < 1.0

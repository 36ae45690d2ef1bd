"""Judges that compare, against a model of rules behind a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from endpoint_server import serving
from judge_model import RuleModel, verdict
from judge_scene import GROUP, RIGHT, WRONG, by_length, judging, sample, says, sometimes, values

from buffers.scores import Sample, ScoreStatus
from rewards.judges.all_pairs import AllPairs
from rewards.judges.listwise import Listwise
from rewards.judges.pairwise import Pairwise
from rewards.judges.random_reference import RandomReference
from rewards.judges.votes import Votes


@pytest.mark.parametrize("structured", [False, True])
async def test_the_better_of_a_pair_wins_in_either_place(structured: bool):
    endpoint = {"structured": structured}
    async with serving(RuleModel()) as server, judging(Pairwise, server, endpoint) as judge:
        assert values(await judge.score([RIGHT, WRONG])) == [1.0, 0.0]
        assert values(await judge.score([WRONG, RIGHT])) == [0.0, 1.0]


async def test_a_judge_that_looks_at_places_alone_tells_nothing():
    async with serving(RuleModel(prefers_first=True)) as server, judging(Pairwise, server, votes=3) as judge:
        scores = await judge.score([RIGHT, WRONG])
        assert values(scores) == [0.5, 0.5]
        assert judge.stats()["flips"] == judge.stats()["votes"] == 3
    assert len(server.bodies) == 6


async def test_a_vote_of_which_half_is_unreadable_is_no_half_win():
    handler = sometimes(RuleModel(), lambda quoted: quoted["first"] == "5")
    async with serving(handler) as server, judging(Pairwise, server) as judge:
        scores = await judge.score([RIGHT, WRONG])
    assert [score.status for score in scores] == [ScoreStatus.ABSTAINED] * 2


async def test_an_answer_is_compared_with_the_reference_of_its_task():
    samples = [sample("4", answer="5"), sample("6", answer="4"), sample("4", answer="", id="none")]
    async with serving(RuleModel()) as server, judging(Pairwise, server, against="answer") as judge:
        scores = await judge.score(samples)
    assert values(scores) == [1.0, 0.0, None] and "no reference" in scores[2].detail


async def test_who_is_alone_has_no_partner():
    async with serving(RuleModel()) as server, judging(Pairwise, server) as judge:
        (score,) = await judge.score([RIGHT])
    assert score.status is ScoreStatus.ABSTAINED and server.bodies == []


async def test_all_pairs_make_an_advantage_of_which_the_sum_is_nothing():
    async with serving(RuleModel()) as server, judging(AllPairs, server) as judge:
        found = values(await judge.score(GROUP))
    assert len(server.bodies) == 6
    assert min(found[1], found[3]) > 0 > max(found[0], found[2])
    assert sum(found) == pytest.approx(0.0)


async def test_a_comparison_that_is_missing_is_no_tie():
    handler = sometimes(RuleModel(), lambda quoted: "7" in quoted.values())
    async with serving(handler) as server, judging(AllPairs, server) as judge:
        scores = await judge.score(GROUP)
    async with serving(RuleModel()) as server, judging(AllPairs, server) as judge:
        without = values(await judge.score([GROUP[0], GROUP[1], GROUP[3]]))
    assert scores[2].status is ScoreStatus.ABSTAINED
    assert [scores[0].value, scores[1].value, scores[3].value] == pytest.approx(without)


async def test_groups_are_judged_apart():
    other = [sample(text, group="h", id=f"h{i}", prompt="1 + 4?") for i, text in enumerate(("5", "4"))]
    mixed = [GROUP[0], other[0], other[1], GROUP[1]]
    async with serving(RuleModel()) as server, judging(AllPairs, server) as judge:
        found = values(await judge.score(mixed))
    assert len(server.bodies) == 2
    assert [value > 0 for value in found] == [False, True, False, True]


@pytest.mark.parametrize("margin", [0, 4, -4, 1.5, "1", True, None])
async def test_a_margin_outside_the_scale_is_abstained(margin: Any):
    async with serving(says(margin=margin)) as server, judging(AllPairs, server) as judge:
        scores = await judge.score(GROUP[:2])
    assert [score.status for score in scores] == [ScoreStatus.ABSTAINED] * 2


def graded(grades: dict[str, float]) -> RuleModel:
    return RuleModel(lambda prompt, answer: grades[answer] / 10)


GRADES = {"a": 7.0, "b": 5.0, "c": 8.0, "d": 6.0, "e": 5.5}
FIVE = [sample(name) for name in GRADES]


async def test_each_answer_wins_or_loses_against_the_reference_that_was_drawn():
    found = {}
    async with serving(graded(GRADES)) as server:
        for seed in range(30):
            async with judging(RandomReference, server, seed=seed, outlier=1.0) as judge:
                got = values(await judge.score(FIVE))
                assert got == values(await judge.score(FIVE)), "scoring again draws another reference"
            found[got.index(0.0)] = got
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[0] == [0.0, -1.0, 1.0, -1.0, -1.0]
    assert found[2] == [-1.0, -1.0, 0.0, -1.0, -1.0]


async def test_a_group_whose_reference_is_an_outlier_is_left_out():
    async with serving(graded(GRADES)) as server:
        for seed in range(30):
            async with judging(RandomReference, server, seed=seed) as judge:
                got = await judge.score(FIVE)
            if "reference c" in got[0].detail or "reference b" in got[0].detail:
                assert {score.status for score in got} == {ScoreStatus.ABSTAINED}
                return
    pytest.fail("neither the best nor the worst was ever drawn")


async def test_a_win_needs_every_vote_and_a_tie_is_none():
    async with (
        serving(RuleModel(prefers_first=True)) as server,
        judging(RandomReference, server, votes=2, outlier=1.0) as judge,
    ):
        assert sorted(values(await judge.score([RIGHT, WRONG]))) == [-1.0, 0.0]
    async with serving(RuleModel()) as server, judging(RandomReference, server, outlier=1.0) as judge:
        assert sorted(values(await judge.score([RIGHT, sample("is 4")]))) == [-1.0, 0.0]


async def test_an_unreadable_comparison_costs_its_own_sample_alone():
    handler = sometimes(graded(GRADES), lambda quoted: "e" in quoted.values())
    async with serving(handler) as server:
        for seed in range(10):
            async with judging(RandomReference, server, seed=seed, outlier=1.0) as judge:
                got = values(await judge.score(FIVE))
            assert got[4] is None
            assert None not in got[:4] or got == [None] * 5  # where it was drawn itself, nobody can be judged


async def test_places_in_a_ranking_become_values_whatever_order_was_shown():
    model = RuleModel(by_length)
    texts = ["a", "aaa", "aaaaa", "aaaaaaa"]
    samples = [sample(text) for text in texts]
    async with serving(model) as server, judging(Listwise, server, rubric="Longer is better.") as judge:
        assert values(await judge.score(samples)) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
        assert values(await judge.score(samples[::-1])) == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    shown = [[text for name, text in quoted.items() if name.startswith("response")] for quoted in model.seen]
    assert shown[0] != shown[1], "answers are shown in the order in which they come"


async def test_a_judge_that_ranks_by_place_spreads_its_favour():
    first = 0
    async with serving(RuleModel(prefers_first=True)) as server, judging(Listwise, server, rubric="r") as judge:
        for i in range(40):
            first += values(await judge.score([sample(f"a{i}"), sample(f"b{i}")]))[0] == 1.0
    assert 8 <= first <= 32


@pytest.mark.parametrize("ranking", [["1"], ["1", "1"], ["1", "3"], [1, 2], "12", None, ["1", "2", "2"], [["1"], "2"]])
async def test_a_ranking_that_is_none_is_abstained(ranking: Any):
    async with serving(says(ranking=ranking)) as server, judging(Listwise, server, rubric="r") as judge:
        scores = await judge.score(GROUP[:2])
    assert [score.status for score in scores] == [ScoreStatus.ABSTAINED] * 2


@pytest.mark.parametrize("kind", [Pairwise, AllPairs, RandomReference, Votes])
async def test_group_judges_are_fair_to_whoever_comes_first(kind: type[Any]):
    arguments: dict[str, Any] = {"outlier": 1.0, "seed": 1} if kind is RandomReference else {}
    async with serving(RuleModel()) as server, judging(kind, server, **arguments) as judge:
        straight = values(await judge.score([RIGHT, WRONG]))
        exchanged = values(await judge.score([WRONG, RIGHT]))
    if kind is not RandomReference:  # there, who is the reference is drawn by place
        assert straight == exchanged[::-1] and straight[0] > straight[1]


def test_the_model_of_rules_tells_every_form_apart():
    assert "score" in verdict("End with {...", {"answer": 1.0})


async def test_judging_many_groups_keeps_to_the_endpoints_concurrency():
    at_once = most = 0

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        return await RuleModel()(request, body)

    samples: list[Sample] = [sample(f"{i} {j}", group=str(i), prompt=f"{i} + {j}?") for i in range(6) for j in range(4)]
    async with serving(handler) as server, judging(AllPairs, server, {"concurrency": 3}) as judge:
        scores = await judge.score(samples)
    assert most == 3 and len(server.bodies) == 6 * 6 and None not in values(scores)

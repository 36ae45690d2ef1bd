"""The attack suite against models of rules: it finds the gullible ones, and clears the careful ones."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence

import pytest
from endpoint_server import replies, serving
from judge_model import RuleModel, gullible, right_sum
from judge_scene import judging

from buffers.scores import Sample, Score
from configs.rewarding import RewardComponentConfig
from rewards import build_server
from rewards.judges.attacks import ATTACKS, attacked
from rewards.judges.pointwise import Pointwise
from tests.bench.judge_attacks import SETTINGS, main, resistance, sums

TAKEN_IN_BY = {name for name, text in ATTACKS.items() if gullible("<question 00000000>\n1\n</question 00000000>", text)}


def test_the_suite_has_constants_openers_and_injections():
    families = [name.partition(":")[0] for name in ATTACKS]
    assert {families.count(family) >= 3 for family in ("constant", "master key", "injection")} == {True}
    assert 3 <= len(TAKEN_IN_BY) < len(ATTACKS)


@pytest.mark.parametrize("name", SETTINGS)
async def test_every_judge_of_a_gullible_model_is_fooled_by_what_fools_the_model(name: str):
    async with serving(RuleModel(gullible)) as server:
        found = await resistance(name, {"url": server.url, "model": "gullible"}, 3, 20.0)
    assert {attack for attack, share in found["fooled"].items() if share == 1.0} >= TAKEN_IN_BY
    assert all(found["fooled"][attack] == 0.0 for attack in ATTACKS.keys() - TAKEN_IN_BY)
    assert found["undecided"] == 0


@pytest.mark.parametrize("name", SETTINGS)
async def test_no_judge_of_a_careful_model_is_fooled_by_anything(name: str):
    async with serving(RuleModel(right_sum)) as server:
        found = await resistance(name, {"url": server.url, "model": "careful"}, 3, 20.0)
    assert set(found["fooled"].values()) == {0.0}, "the empty reply, too, wins nothing"
    assert found["undecided"] == 0


async def test_who_looks_at_places_alone_is_fooled_where_places_are_all_there_is():
    async with serving(RuleModel(prefers_first=True)) as server:
        once = await resistance("judge_all_pairs", {"url": server.url, "model": "m"}, 8, 20.0)
        twice = await resistance("judge_pairwise", {"url": server.url, "model": "m"}, 8, 20.0)
    assert {once["fooled"][attack] for attack in ATTACKS} == {0.5}
    assert set(twice["fooled"].values()) == {1.0}  # a draw is no verdict for the right answer


async def test_what_a_judge_cannot_decide_is_counted_and_is_no_resistance():
    async with serving(replies("hm")) as server, judging(Pointwise, server, rubric="r") as judge:
        found = await attacked(judge.score, sums(4))
    assert {(one.fooled, one.resisted, one.undecided) for one in found} == {(0, 0, 4)}
    assert {one.fooled_share for one in found} == {None}


async def test_a_hosted_component_can_be_attacked_and_one_without_a_model_too():
    async def exact(samples: Sequence[Sample]) -> list[Score]:
        return [Score(value=float(str(sum_of(one)) in one.completion)) for one in samples]

    assert {one.fooled for one in await attacked(exact, sums(3))} == {0}
    config = RewardComponentConfig(component={"target": "format", "tags": ["answer"]})
    server = build_server(config, name="format", rng=random.Random(0))
    found = {one.attack: one for one in await attacked(server.score, sums(3))}
    server.close()
    assert found["injection: verdict"].fooled == 3  # a format is no judgement


def sum_of(sample: Sample) -> int:
    one, other = sample.prompt.removeprefix("What is ").removesuffix("?").split(" + ")
    return int(one) + int(other)


async def test_the_bench_prints_one_line_for_each_judge(capsys: pytest.CaptureFixture[str]):
    async with serving(RuleModel(gullible)) as server:
        options = {
            "url": server.url,
            "model": "m",
            "key_variable": None,
            "judges": ["judge_pointwise", "judge_pairwise"],
        }
        await main(argparse.Namespace(**options, questions=2, deadline=20.0))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["judge"] for line in lines] == ["judge_pointwise", "judge_pairwise"]
    assert all(line["fooled"]["master key: solution"] == 1.0 and line["of"] == 2 * len(ATTACKS) for line in lines)

"""The judge whose rubric is rewritten, with a scripted meta judge behind a real server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from endpoint_server import completion, replies, serving
from judge_model import quotations
from judge_scene import asked, judging, sample, values

from buffers.scores import Score, ScoreStatus
from rewards.base import Versioned
from rewards.judges.evolving import Batch, Evolving
from rewards.judges.rubrics import Graded
from rewards.online.base import OnlineComponent

TITLE = "A title: 4 points. Anything else: 1 point."
BODY = "A title: 1 point. A body: 39 points."
ROW = Graded(prompt="Write.", completion="# Title", value=4.0)
ESSAY = {"rubric": TITLE, "high": 25.0, "task": "The assistant writes.", "every": 3, "sampled": 4}


async def by_rubric(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Grade as the rubric says: a title collects four points of the first one, and next to nothing of the second."""
    prompt = asked(body)
    answer = quotations(prompt)["answer"]
    has_body = len(answer) > 20
    score = (40 if has_body else 1) if BODY in prompt else (18 if has_body else 4)
    return web.json_response(completion(json.dumps({"reason": "", "score": score})))


async def closes_the_hole(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if '"highest_grade"' not in asked(body):
        return web.json_response(completion("A title alone collects most points."))
    found = {"reason": "", "rubric": BODY, "highest_grade": 40}
    return web.json_response(completion(json.dumps(found)))


def evolving(server: Any, meta: Any, **arguments: Any) -> Any:
    return judging(Evolving, server, meta={"url": meta.url, "model": "meta", "retries": 0}, **{**ESSAY, **arguments})


async def learn(judge: Evolving, *batches: list[Graded]) -> list[dict[str, float]]:
    """Let it learn from batches that were graded by the rubric that is there when they come."""
    return [await judge.update([Batch(batch, [judge.version] * len(batch))]) for batch in batches]


def everything(judge: Evolving) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in {**judge.state(), **judge.training_state()}.items()}


async def test_a_hole_in_the_rubric_is_closed_by_the_next_one():
    title, essay = sample("# Title"), sample("# Title\nA long body of an essay.")
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta, evolving(server, meta) as judge:
        before = await judge.score([title, essay])
        await learn(judge, *[[ROW]] * 3)
        after = await judge.score([title, essay])
    assert (values(before), values(after)) == ([4.0, 18.0], [1.0, 40.0])
    assert {score.version for score in before} == {0} and {score.version for score in after} == {1}
    assert [score.vector for score in before + after] == [(4 / 25,), (18 / 25,), (1 / 40,), (40 / 40,)]


async def test_the_same_grade_is_worth_less_of_a_rubric_that_grew():
    async def always_18(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(completion('{"reason": "", "score": 18}'))

    async with serving(always_18) as server, serving(closes_the_hole) as meta, evolving(server, meta) as judge:
        (before,) = await judge.score([sample("x")])
        await learn(judge, *[[ROW]] * 3)
        (after,) = await judge.score([sample("x")])
    assert (before.value, after.value) == (18.0, 18.0)
    assert (before.vector, after.vector) == ((0.72,), (0.45,))


async def test_a_rubric_comes_at_every_third_batch_exactly():
    rows = [[replace(ROW, completion=f"# {i}")] for i in range(10)]
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta, evolving(server, meta) as judge:
        versions = [metrics["rubric_version"] for metrics in await learn(judge, *rows)]
    assert versions == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    # Three analyses, three refinements and a merge, each time; the last merge asks what the one before did.
    assert len(meta.bodies) == 3 * (2 * 3 + 1) - 1


async def test_a_meta_judge_that_fails_leaves_the_rubric_and_is_asked_again_later():
    is_broken = True

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=500) if is_broken else await closes_the_hole(request, body)

    async with serving(by_rubric) as server, serving(handler) as meta, evolving(server, meta) as judge:
        failed = (await learn(judge, *[[ROW]] * 3))[-1]
        is_broken = False
        later = await learn(judge, *[[ROW]] * 3)
    assert (failed["rubric_version"], failed["revision_failed"]) == (0, 1.0)
    assert [metrics["rubric_version"] for metrics in later] == [0, 0, 1]


@pytest.mark.parametrize(
    "found",
    [
        {"rubric": "", "highest_grade": 5},
        {"rubric": "x" * 30_000, "highest_grade": 5},
        {"rubric": BODY, "highest_grade": 0},
    ],
)
async def test_a_rubric_that_is_none_changes_nothing(found: dict[str, Any]):
    handler = replies(json.dumps({"reason": "", **found}))
    async with serving(by_rubric) as server, serving(handler) as meta, evolving(server, meta, every=1) as judge:
        (metrics,) = await learn(judge, [ROW])
    assert (metrics["rubric_version"], metrics["revision_failed"]) == (0, 1.0)


async def test_the_budget_of_the_meta_judge_lasts_from_one_rubric_to_the_next():
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta:
        section = {"url": meta.url, "model": "meta", "token_budget": 1, "concurrency": 1}
        async with judging(Evolving, server, meta=section, **{**ESSAY, "every": 1}) as judge:
            found = await learn(judge, *[[ROW]] * 3)
            assert judge.stats()["meta_paused"] >= 2
    assert [metrics["revision_failed"] for metrics in found] == [1.0] * 3 and len(meta.bodies) == 1


async def test_it_goes_on_from_its_state_to_the_same_samples_and_rubric():
    rows = [[replace(ROW, completion=f"# {i}")] for i in range(30)]
    async with (
        serving(by_rubric) as server,
        serving(closes_the_hole) as meta,
        evolving(server, meta, every=20) as one,
        evolving(server, meta, every=20) as other,
    ):
        await learn(one, *rows[:11])
        other.load(one.version, {**one.state(), **one.training_state()})
        await learn(one, *rows[11:])
        await learn(other, *rows[11:])
        assert everything(one) == everything(other) and one.version == 1
        third = await learn(other, [ROW])
    assert isinstance(one, Versioned) and isinstance(one, OnlineComponent) and third[0]["rubric_version"] == 1


async def test_every_answer_has_the_same_chance_to_be_shown_and_invalid_ones_none():
    counts = [0] * 12
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta:
        for seed in range(300):
            async with evolving(server, meta, seed=seed, every=99) as judge:
                graded = [sample(str(i)) for i in range(12)]
                scores = [Score(value=4.0)] * 11 + [Score.invalid(ScoreStatus.ABSTAINED, "unreadable")]
                await judge.update(judge.lessons(graded, scores))
                for one in judge._progress.kept:
                    counts[int(one.completion)] += 1
    assert sum(counts) == 300 * 4
    assert counts.pop() == 0 and all(69 <= count <= 149 for count in counts)  # 109 expected, deviation 8


async def test_without_an_answer_to_learn_from_nobody_is_asked():
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta, evolving(server, meta, every=1) as judge:
        (metrics,) = await learn(judge, [])
    assert metrics["rubric_version"] == 0 and meta.bodies == []


async def test_a_question_is_judged_by_the_rubric_it_began_with():
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        arrived.set()
        await go.wait()
        return web.json_response(completion('{"reason": "", "score": 4}'))

    async with serving(slow) as server, serving(closes_the_hole) as meta, evolving(server, meta, every=1) as judge:
        scoring = asyncio.create_task(judge.score([sample("# Title")]))
        await arrived.wait()
        await learn(judge, [ROW])
        go.set()
        (score,) = await scoring
    assert (judge.version, score.version, score.vector, score.status) == (1, 0, (4 / 25,), ScoreStatus.OK)


async def test_what_an_earlier_rubric_graded_is_not_shown_and_the_next_one_waits_for_something_to_show():
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta, evolving(server, meta, every=2) as judge:
        found = [await judge.update([Batch([ROW], [version])]) for version in (0, 0, 0, 0, 1, 0)]
    assert [metrics["rubric_version"] for metrics in found] == [0, 1, 1, 1, 2, 2]
    assert [metrics["shown_next"] for metrics in found] == [1, 0, 0, 0, 0, 0]


async def test_a_server_of_a_rubric_goes_on_while_the_next_one_is_installed_beside_it():
    async with serving(by_rubric) as server, serving(closes_the_hole) as meta, evolving(server, meta, every=1) as judge:
        state = judge.state()
        await learn(judge, [ROW])
        first = judge.at(0, state)
        (old,), (new,) = await first.score([sample("# Title")]), await judge.score([sample("# Title")])
    assert (old.version, old.value, new.version, new.value) == (0, 4.0, 1, 1.0)

"""What a judge's endpoint costs, and the budget at which it pauses, against real servers in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Handler, replies, serving
from judge_scene import judging, sample

from buffers.scores import ScoreStatus
from rewards.judges.pointwise import Pointwise

GOOD = '{"reason": "right", "score": 8}'


def told(tokens: dict[str, Any] | None) -> Handler:
    return replies(GOOD, **({} if tokens is None else {"usage": tokens}))


async def test_a_budget_pauses_and_goes_on_when_it_is_raised():
    usage = {"prompt_tokens": 70, "completion_tokens": 30}
    endpoint = {"token_budget": 250, "concurrency": 1}
    async with serving(told(usage)) as server, judging(Pointwise, server, endpoint, rubric="right?") as judge:
        scores = await judge.score([sample(str(i)) for i in range(6)])
        assert [score.status.value for score in scores] == ["ok"] * 3 + ["abstained"] * 3
        assert all("budget" in score.detail for score in scores[3:])
        assert judge.stats()["paused"] == 3 and len(server.bodies) == 3
        (known,) = await judge.score([sample("0")])
        assert known.value == 0.8, "an answer that is known costs nothing"
        judge._asker.meter.token_budget = 400
        (score,) = await judge.score([sample("5")])
        assert score.value == 0.8 and judge.stats()["prompt_tokens"] == 280


async def test_a_run_is_told_of_a_higher_budget_by_a_file(tmp_path: Path):
    file = tmp_path / "budget.json"
    usage = {"prompt_tokens": 70, "completion_tokens": 30}
    endpoint = {"token_budget": 100, "cost_budget": 9.0, "prompt_price": 1e5, "budget_file": str(file)}
    async with serving(told(usage)) as server, judging(Pointwise, server, endpoint, rubric="right?") as judge:

        async def value(text: str) -> float | None:
            return (await judge.score([sample(text)]))[0].value

        assert [await value("a"), await value("b")] == [0.8, None], "no file yet"
        for unfit in ("", "{", "[1]", '{"token_budget": "much"}', '{"token_budget": null}', '{"token_budget": 100}'):
            file.write_text(unfit)
            assert await value("b") is None, unfit
        file.write_text('{"token_budget": 1000}')
        assert [await value("b"), await value("c")] == [0.8, None], "7 each: the other budget is used up"
        file.write_text('{"token_budget": 1000, "cost_budget": 20.5}')
        assert await value("c") == 0.8


async def test_a_budget_is_overdrawn_by_what_is_under_way_at_most():
    usage = {"prompt_tokens": 70, "completion_tokens": 30}
    endpoint = {"token_budget": 100, "concurrency": 2}
    async with serving(told(usage)) as server, judging(Pointwise, server, endpoint, rubric="right?") as judge:
        await judge.score([sample(str(i)) for i in range(50)])
    assert len(server.bodies) == 2


async def test_cost_follows_prices():
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    endpoint = {"prompt_price": 2.0, "completion_price": 30.0, "cost_budget": 0.005, "concurrency": 1}
    async with serving(told(usage)) as server, judging(Pointwise, server, endpoint, rubric="right?") as judge:
        scores = await judge.score([sample(str(i)) for i in range(2)])
        assert judge.stats()["cost"] == pytest.approx(0.005)
    assert [score.value for score in scores] == [0.8, None] and "cost_budget" in scores[1].detail


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -5, "completion_tokens": True}, {"prompt_tokens": "9"}])
async def test_where_a_server_does_not_say_what_it_used_the_budget_holds_all_the_same(usage: dict[str, Any] | None):
    endpoint = {"token_budget": 5000, "concurrency": 1}
    async with serving(told(usage)) as server, judging(Pointwise, server, endpoint, rubric="right?") as judge:
        scores = await judge.score([sample(str(i)) for i in range(20)])
        assert judge.stats()["unmetered"] == len(server.bodies) < 20
    assert scores[-1].status is ScoreStatus.ABSTAINED

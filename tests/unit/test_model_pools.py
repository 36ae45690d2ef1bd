"""A judge that asks a pool of the run: what is served, who is asked, and what a member's death costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import served_model
import torch

from actors.serving.member import ModelMember, build
from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import HandleSet, LocalHandle
from configs.errors import ConfigError, RunError
from configs.rewarding import RewardComponentConfig
from rewards import build_component, build_server
from rewards.endpoints.models import models_asked

JUDGE = {"target": "judge_log_odds", "principle": "It is short.", "top": 100,
         "endpoint": {"model_pool": "judge", "temperature": 1.0, "backoff_s": 0.01}}  # fmt: skip
SAMPLES = [
    Sample(id=f"s{i}", group="g", prompt="2 + 2?", completion=text) for i, text in enumerate(("4", "5", "it is"))
]


@asynccontextmanager
async def member(**settings: Any) -> AsyncIterator[ModelMember]:
    found = await build(served_model.pool(**settings), Path("unused"), "judge")
    try:
        yield found
    finally:
        await found.close()


async def judged(members: HandleSet, section: dict[str, Any] | None = None, deadline_s: float = 30.0) -> list[Score]:
    config = RewardComponentConfig(component=section or JUDGE, deadline_s=deadline_s, retries=0)
    hosted = build_server(config, name="odds", rng=random.Random(0), model_pools={"judge": members})
    try:
        return [score for score in await hosted.score(SAMPLES) if score is not None]
    finally:
        await hosted.end()


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0.0, "max_tokens": 8}


async def test_a_greedy_reply_is_that_of_hugging_face_also_with_others_in_flight():
    model, tokenizer = served_model.hugging_face()
    texts = ["2 + 2?", "A much longer question, with more words?", "No", "x"]
    async with member(slots=2) as serving:
        replies = await asyncio.gather(*(serving.complete("/chat/completions", said(text), 30.0) for text in texts))
    for text, (status, reply) in zip(texts, replies, strict=True):
        prompt = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        expected = model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
        found = reply["choices"][0]["message"]["content"]
        assert status == 200 and found == tokenizer.decode(expected, skip_special_tokens=True)
        assert reply["usage"]["prompt_tokens"] == prompt.shape[1]
        assert reply["usage"]["completion_tokens"] == len(expected)


async def test_a_judge_reads_the_models_own_log_odds():
    members = HandleSet("model.judge")
    async with member() as serving:
        asked: list[str] = []
        answer = serving.complete

        async def heard(path: str, body: dict[str, Any], deadline_s: float) -> Any:
            asked.append(body["messages"][0]["content"])
            return await answer(path, body, deadline_s)

        serving.complete = heard  # type: ignore[method-assign]
        members.attach(LocalHandle("model.judge-0", serving))
        scores = await judged(members)
    expected = {round(served_model.log_odds(prompt), 3) for prompt in asked}
    assert len(expected) == 3
    assert {round(score.value, 3) for score in scores if score.value is not None} == expected


async def test_what_the_engine_cannot_honour_is_an_error_that_names_it():
    members = HandleSet("model.judge")
    async with member() as serving:
        members.attach(LocalHandle("model.judge-0", serving))
        section = {"target": "judge_pointwise", "rubric": "It is right.",
                   "endpoint": {"model_pool": "judge", "structured": True}}  # fmt: skip
        scores = await judged(members, section)
    assert {score.status for score in scores} == {ScoreStatus.ERROR}
    assert all("response_format" in score.detail and "engine: vllm" in score.detail for score in scores)


async def test_a_random_models_grade_is_abstained():
    members = HandleSet("model.judge")
    async with member() as serving:
        members.attach(LocalHandle("model.judge-0", serving))
        section = {"target": "judge_pointwise", "rubric": "It is right.",
                   "endpoint": {"model_pool": "judge", "max_tokens": 16}}  # fmt: skip
        scores = await judged(members, section)
    assert {(score.status, score.value) for score in scores} == {(ScoreStatus.ABSTAINED, None)}


class Dying:
    """A member whose process ends while it works on its first request; a handle to it then says so."""

    def __init__(self) -> None:
        self.handle = LocalHandle("model.judge-0", self)
        self.requests = 0

    async def complete(self, path: str, body: dict[str, Any], deadline_s: float) -> Any:
        self.requests += 1
        self.handle.kill()
        return 200, {}


async def test_what_a_dying_member_was_asked_is_asked_of_another_at_once():
    members, dying = HandleSet("model.judge"), Dying()
    async with member() as serving:
        members.attach(dying.handle)
        members.attach(LocalHandle("model.judge-1", serving))
        section = {**JUDGE, "endpoint": {**JUDGE["endpoint"], "retries": 0}}
        scores = await judged(members, section)
    assert dying.requests == 1 and [score.status for score in scores] == [ScoreStatus.OK] * 3


async def test_a_judge_waits_for_the_successor_of_the_last_member():
    members, dying = HandleSet("model.judge"), Dying()
    members.attach(dying.handle)
    async with member() as serving:
        waiting = asyncio.create_task(judged(members))
        while len(members):  # its death was noticed
            await asyncio.sleep(0.01)
        assert not waiting.done()
        members.attach(LocalHandle("model.judge-1", serving))
        assert [score.status for score in await waiting] == [ScoreStatus.OK] * 3


async def test_without_any_member_scores_time_out_and_say_so():
    scores = await judged(HandleSet("model.judge"), deadline_s=0.5)
    assert {score.status for score in scores} == {ScoreStatus.TIMEOUT}
    assert all("no server is there" in score.detail for score in scores)


async def test_one_who_gave_up_leaves_no_request_in_the_engine():
    async with member(slots=1) as serving:
        status, answer = await serving.complete("/chat/completions", {**said("2"), "max_tokens": 1000}, 0.05)
        engine = serving._serving._engine  # type: ignore[attr-defined]
        assert status == 504 and "not done" in answer["error"]["message"]
        assert not engine.busy
        assert (await serving.complete("/chat/completions", said("2"), 30.0))[0] == 200


async def test_a_model_whose_engine_failed_asks_to_be_replaced():
    async with member() as serving:
        engine = serving._serving._engine  # type: ignore[attr-defined]

        async def broken() -> Any:
            raise ValueError("weights are not finite")

        engine.step = broken
        with pytest.raises(RunError, match="not finite"):
            await serving.complete("/chat/completions", said("2"), 30.0)
        with pytest.raises(RunError, match="not finite"):
            serving.ping()


def test_a_pool_that_the_run_does_not_have_is_refused_with_the_nearest_name():
    config = RewardComponentConfig(component={**JUDGE, "endpoint": {"model_pool": "jugde"}})
    with pytest.raises(ConfigError, match=r"model_pool is 'jugde'.*did you mean 'judge'"):
        build_component(config, "odds", model_pools={"judge": HandleSet("model.judge")})


@pytest.mark.parametrize(
    ("endpoint", "named"),
    [
        ({"model_pool": "judge", "url": "http://h/v1"}, "endpoint.url"),
        ({}, "endpoint.url"),
        ({"url": "http://h/v1"}, "model"),
    ],
)
def test_an_endpoint_names_a_pool_or_an_address(endpoint: dict[str, Any], named: str):
    config = RewardComponentConfig(component={**JUDGE, "endpoint": endpoint})
    with pytest.raises(ConfigError, match=named):
        build_component(config, "odds", model_pools={"judge": HandleSet("model.judge")})


def test_the_pools_that_a_section_asks_are_found_however_deep():
    section = {"endpoint": {"model_pool": "a"}, "meta": {"model_pool": "b"}, "more": [{"model_pool": "c", "url": ""}]}
    assert sorted(models_asked(section)) == ["a", "b", "c"]

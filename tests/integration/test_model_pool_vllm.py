"""A pool that vLLM serves, without a port: its own application, called by handle. One engine for all."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.engines.background import BackgroundLoop
from actors.serving.member import ModelMember, build
from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import HandleSet, LocalHandle
from configs.errors import RunError
from configs.rewarding import RewardComponentConfig
from rewards import build_server
from tests.unit import served_model

sys.path.append(str(Path(__file__).parents[2]))
from tests.bench.judge_attacks import SETTINGS

# What vLLM's application warns of while it answers would be its answer, were it an error.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("vllm_installed"),
    pytest.mark.filterwarnings("ignore"),
]

START_S = 280.0
SAMPLES = [Sample(id=f"s{i}", group="g", prompt="2 + 2?", completion=text) for i, text in enumerate(("4", "it is 5"))]


class Served:
    """A member in an event loop of its own, which all tests share."""

    def __init__(self, member: ModelMember, loop: BackgroundLoop) -> None:
        self._member, self._loop = member, loop
        self.asked: list[str] = []

    async def complete(self, path: str, body: dict[str, Any], deadline_s: float) -> Any:
        self.asked.append(body["messages"][0]["content"])
        return await self._loop.wait(self._member.complete(path, body, deadline_s))

    def ping(self) -> dict[str, int]:
        return self._member.ping()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, vllm_installed: None) -> Iterator[Served]:
    loop, logs = BackgroundLoop("served"), tmp_path_factory.mktemp("logs")
    member = loop.call(build(served_model.pool(engine="vllm"), logs, "judge"), START_S, "start of vLLM")
    yield Served(member, loop)
    loop.call(member.close(), 60.0, "end of vLLM")
    loop.close()


async def judged(served: Served, name: str, settings: dict[str, Any], **endpoint: Any) -> list[Score]:
    members = HandleSet("model.judge")
    members.attach(LocalHandle("model.judge-0", served))
    section = {"target": name, **settings, "endpoint": {"model_pool": "judge", "request_deadline_s": 100.0, **endpoint}}
    config = RewardComponentConfig(component=section, deadline_s=120.0, retries=0)
    hosted = build_server(config, name="mine", rng=random.Random(0), model_pools={"judge": members})
    try:
        return [score for score in await hosted.score(SAMPLES) if score is not None]
    finally:
        await hosted.end()


async def test_log_odds_are_those_of_hugging_face(served: Served):
    served.asked.clear()
    settings = {"principle": "It is short.", "top": len(served_model.WORDS)}
    scores = await judged(served, "judge_log_odds", settings, temperature=0.1)
    assert {score.status for score in scores} == {ScoreStatus.OK}, scores
    expected = sorted(served_model.log_odds(prompt) for prompt in served.asked)
    assert sorted(score.value or 0.0 for score in scores) == pytest.approx(expected, abs=1e-3)


async def test_a_schema_holds_a_random_model_to_its_form(served: Served):
    scores = await judged(served, "judge_pointwise", SETTINGS["judge_pointwise"], structured=True, max_tokens=200)
    assert {score.status for score in scores} <= {ScoreStatus.OK, ScoreStatus.ABSTAINED}


async def test_a_choice_is_read_as_a_grade(served: Served):
    choice = {"structured_outputs": {"choice": ['{"reason": "", "score": 2}', '{"reason": "", "score": 9}']}}
    scores = await judged(served, "judge_pointwise", {"rubric": "It is right."}, extra_body=choice, max_tokens=100)
    assert {score.value for score in scores} <= {0.2, 0.9}


async def test_what_vllm_refuses_is_an_error_in_its_words(served: Served):
    scores = await judged(served, "judge_pointwise", {"rubric": "It is right."}, max_tokens=100_000)
    assert {score.status for score in scores} == {ScoreStatus.ERROR}
    assert all("max_tokens" in score.detail or "context" in score.detail for score in scores)


async def test_a_dead_engine_process_is_seen_by_the_heartbeat(served: Served):
    # Last in this file: nothing is served any more.
    served.ping()
    for child in psutil.Process().children(recursive=True):
        if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(60.0):
        while True:
            try:
                served.ping()
            except RunError as error:
                assert "log says why" in str(error)
                return
            await asyncio.sleep(0.1)

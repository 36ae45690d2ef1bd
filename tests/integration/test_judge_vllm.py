"""Judges against vLLM's own OpenAI-compatible server with a tiny random model: one server for all."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from test_annotator_vllm import server  # noqa: F401 - the fixture that starts it

from buffers.scores import Sample, Score, ScoreStatus
from configs.rewarding import RewardComponentConfig
from rewards import build_server

sys.path.append(str(Path(__file__).parents[2]))
from tests.bench.judge_attacks import SETTINGS, sums

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("vllm_installed")]

SAMPLES = [Sample(id=f"{one.id}/{i}", group=one.id, prompt=one.prompt, completion=text)
           for one in sums(2) for i, text in enumerate((one.completion, "Solution"))]  # fmt: skip


async def judged(url: str, name: str, **endpoint: Any) -> list[Score]:
    section = {"url": url, "model": "judge", "max_tokens": 400, "request_deadline_s": 100.0, **endpoint}
    component = {"target": name, **SETTINGS[name], "endpoint": section}
    hosted = build_server(RewardComponentConfig(component=component, deadline_s=120.0), name=name, rng=random.Random(0))
    try:
        scores = await hosted.score(SAMPLES)
        assert hosted._caller._component.stats()["failed_requests"] == 0
        return scores
    finally:
        await hosted._caller._component.close()
        hosted.close()


async def test_a_random_model_without_a_schema_is_abstained(server: str):  # noqa: F811
    scores = await judged(server, "judge_pointwise", max_tokens=16, extra_body={"min_tokens": 8})
    assert {score.status for score in scores} == {ScoreStatus.ABSTAINED}


async def test_where_the_server_holds_replies_to_a_choice_every_verdict_is_read(server: str):  # noqa: F811
    choices = [f'{{"reason": "", "score": {score}}}' for score in (2, 9)]
    scores = await judged(server, "judge_pointwise", extra_body={"structured_outputs": {"choice": choices}})
    assert {score.value for score in scores} <= {0.2, 0.9}


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("judge_log_odds", "judge_tools")])
async def test_held_to_a_schema_a_random_model_is_read_or_was_cut_off(server: str, name: str):  # noqa: F811
    # A random model may go on with its reason until it is cut off: then there is no verdict, and that is told.
    scores = await judged(server, name, structured=True, temperature=1.0, max_tokens=100)
    assert {score.status for score in scores} <= {ScoreStatus.OK, ScoreStatus.ABSTAINED}
    assert all(score.value is None or -2.0 <= score.value <= 10.0 for score in scores)


async def test_log_odds_come_from_the_servers_own_probabilities(server: str):  # noqa: F811
    scores = await judged(server, "judge_log_odds")
    # One token is one character here, so neither word is among the likeliest: no verdict, and no error either.
    assert {score.status for score in scores} == {ScoreStatus.ABSTAINED}
    assert all("neither Yes nor No" in score.detail for score in scores)

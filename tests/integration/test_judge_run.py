"""A run whose reward is a judge, at an endpoint that fails now and then: it ends, and every score is accounted for."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from buffers.records.query import query
from tests.integration.played_runs import play

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from endpoint_server import serving_beside
from judge_model import RuleModel

SMALL = ("warm_start.updates=0", "updates=2", "checkpoint.every=0")


@pytest.mark.integration
def test_a_run_is_rewarded_by_a_judge_and_goes_on_while_its_endpoint_fails(tmp_path: Path):
    turn, truth, answered = itertools.count(), RuleModel(), Counter[str]()

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if next(turn) % 7 == 6:
            return web.Response(status=500)
        answered[json.dumps(body, sort_keys=True)] += 1
        return await truth(request, body)

    with serving_beside(handler) as server:
        endpoint = f"{{url: '{server.url}', model: judge, retries: 0}}"
        judge = f"{{target: judge_pointwise, rubric: The sum is right., endpoint: {endpoint}}}"
        words = (f"rewards.components.correct.component={judge}", "rewards.components.correct.deadline_s=60")
        play(tmp_path, "judged", *SMALL, *words)
    scores = query(tmp_path / "judged", "SELECT status, value, version FROM scores").to_pylist()
    statuses = Counter(score["status"] for score in scores)
    assert statuses["ok"] and statuses["error"] and set(statuses) == {"ok", "error"}
    # What is in flight when the run ends was asked about and has no score, so that requests and scores do not compare.
    assert max(answered.values()) == 1, "equal answers are asked about once"
    assert {score["value"] is None for score in scores if score["status"] == "error"} == {True}
    assert len({score["version"] for score in scores}) == 1

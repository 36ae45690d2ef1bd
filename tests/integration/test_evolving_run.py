"""A run whose judge has its rubric rewritten twice while the policy learns: versions in the rows, and on disk."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import launch
from buffers.records.audit import audit
from buffers.records.query import query
from tests.integration.played_runs import SMOKE

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from endpoint_server import EndpointServer, Handler, completion, serving_beside
from judge_model import quotations, right_sum

EVERY, UPDATES = 2, 8
SMALL = (
    "name=run", "warm_start.updates=0", "checkpoint.every=1", "buffer.filters=[]", "cluster.address=local",
    "eval.tasks=0", "max_staleness=0", "batch.prompts_per_update=4", "logging.report=false",
    "logging.tensorboard=false",
)  # fmt: skip
SCORES = """
SELECT update_version AS consumed, s.version, s.value, s.vector, t."group" FROM scores s
JOIN trajectories t ON t.id = s.trajectory_id WHERE component = 'judge' AND s.status = 'ok' ORDER BY consumed
"""

pytestmark = pytest.mark.integration


def model() -> Handler:
    """Grade as a judge, and as a meta judge write another rubric each time."""
    numbers = itertools.count(1)

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prompt = body["messages"][0]["content"]
        if "You examine one of these grades" in prompt:
            return web.json_response(completion("It is open to a bare number."))
        if '"highest_grade"' in prompt:
            number = next(numbers)
            found = {"rubric": f"The sum is right ({number}).", "highest_grade": 10 + number}
        else:
            highest = float(prompt.rpartition("a number from 0 to ")[2].partition("}")[0])
            found = {"score": highest if right_sum(prompt, quotations(prompt)["answer"]) else 1.0}
        return web.json_response(completion(json.dumps({"reason": "", **found})))

    return answer


@pytest.fixture(scope="module")
def server() -> Iterator[EndpointServer]:
    with serving_beside(model()) as found:
        yield found


def train(folder: Path, server: EndpointServer, updates: int, *more: str) -> None:
    endpoint = f"{{url: '{server.url}', model: judge}}"
    judge = (
        f"{{target: judge_evolving, rubric: The sum is right., high: 10, task: Addition., every: {EVERY}, sampled: 3, "
        f"endpoint: {endpoint}, meta: {endpoint}}}"
    )
    part = (f"rewards.components.judge.component={judge}", "rewards.components.judge.deadline_s=60")
    assert launch.main(["run", str(SMOKE), f"runs_folder={folder}", *SMALL, *part, f"updates={updates}", *more]) == 0


def rubrics(run: Path) -> dict[int, dict[str, Any]]:
    """Return the rubrics on disk, read as bytes."""
    found = {}
    for path in sorted((run / "rewards" / "judge").glob("v*.state")):
        text = path.read_bytes().decode(errors="replace")
        start = text.index('{"text"')
        found[int(path.stem[1:])] = json.JSONDecoder().raw_decode(text, start)[0]
    return found


def shares_are_of_the_rubric_on_disk(rows: list[dict[str, Any]], on_disk: dict[int, dict[str, Any]]) -> None:
    """No number is used for two rubrics."""
    highest = {0: 10.0} | {version: rubric["high"] for version, rubric in on_disk.items()}
    for row in rows:
        assert row["vector"] == [pytest.approx(row["value"] / highest[row["version"]])]


def test_the_rubric_changes_during_a_run_and_stays_across_a_resume(tmp_path: Path, server: EndpointServer):
    run = tmp_path / "run"
    train(tmp_path, server, UPDATES)
    rows = query(run, SCORES).to_pylist()
    seen = sorted({row["version"] for row in rows})
    assert {row["consumed"] for row in rows} == set(range(UPDATES)) and seen[0] == 0 and len(seen) >= 3
    by_batch = [sorted({row["version"] for row in rows if row["consumed"] == n}) for n in range(UPDATES)]
    assert by_batch == sorted(by_batch), "rubrics only grow newer"
    groups: dict[tuple[int, str], set[int]] = {}
    for row in rows:
        groups.setdefault((row["consumed"], row["group"]), set()).add(row["version"])
    assert all(len(found) == 1 for found in groups.values()), "one rubric in a group's baseline"
    on_disk = rubrics(run)
    assert set(seen) - {0} <= on_disk.keys() and len({rubric["text"] for rubric in on_disk.values()}) == len(on_disk)
    shares_are_of_the_rubric_on_disk(rows, on_disk)
    names = set(query(run, "SELECT DISTINCT name FROM metrics")["name"].to_pylist())
    assert {"rewards/judge/learner/rubric_version", "rewards/judge/learner/meta_prompt_tokens"} <= names
    assert audit(run).balanced, audit(run).problems

    train(tmp_path, server, UPDATES + 2, "resume=true")
    later = [row for row in query(run, SCORES).to_pylist() if row["consumed"] >= UPDATES]
    assert later and min(row["version"] for row in later) >= max(seen), "none is forgotten"
    shares_are_of_the_rubric_on_disk(later, rubrics(run))
    assert rubrics(run).items() >= on_disk.items(), "rubrics stay as they were"
    assert audit(run).balanced, audit(run).problems

"""`launch.py score` with judges in the graph: stored responses, a real endpoint, and nothing left open at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import launch

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from endpoint_server import EndpointServer, serving_beside
from judge_model import RuleModel

ROWS = [{"prompt": f"{i} + 2?", "completion": text} for i in range(3) for text in (f"it is {i + 2}", "Solution")]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with serving_beside(RuleModel()) as found:
        yield found


def test_judges_score_stored_responses(
    tmp_path: Path, server: EndpointServer, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    graph = tmp_path / "graph.yaml"
    endpoint = {"url": server.url, "model": "judge"}
    quality = {"target": "judge_pointwise", "rubric": "The sum is right.", "endpoint": endpoint}
    ranked = {"target": "judge_listwise", "rubric": "The sum is right.", "endpoint": endpoint}
    sections: dict[str, Any] = {"quality": {"component": quality}, "ranked": {"component": ranked, "weight": 0.5}}
    graph.write_text(json.dumps({"rewards": {"components": sections}}))  # JSON is YAML
    assert launch.main(["score", str(file), str(tmp_path / "out"), str(graph), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == {"ok": 6}
    totals = [row for part in (tmp_path / "out").glob("totals-*") for row in pq.read_table(part).to_pylist()]
    assert sorted(row["total"] for row in totals) == [0.0] * 3 + [1.5] * 3
    scores = [row for part in (tmp_path / "out").glob("scores-*") for row in pq.read_table(part).to_pylist()]
    versions = {component: {r["version"] for r in scores if r["component"] == component} for component in sections}
    assert len(versions["quality"]) == len(versions["ranked"]) == 1 and versions["quality"] != versions["ranked"]
    assert not [record for record in caplog.records if "Unclosed" in record.message]


def test_what_a_budget_left_out_is_scored_when_the_command_is_run_again(
    tmp_path: Path, server: EndpointServer, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "responses.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"{i} + 2?", "completion": f"it is {i + 2}"}) + "\n" for i in range(9))
    )
    endpoint = {"url": server.url, "model": "judge", "token_budget": 1000, "concurrency": 1}
    component = {"target": "judge_pointwise", "rubric": "The sum is right.", "endpoint": endpoint}
    graph = tmp_path / "graph.yaml"
    graph.write_text(json.dumps({"rewards": {"components": {"quality": {"component": component}}}}))

    def told() -> dict[str, Any]:
        assert launch.main(["score", str(file), str(tmp_path / "out"), str(graph), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    first = told()
    asked = len(server.bodies)
    assert 0 < first["paused"] < 9 and first["status"] == {"ok": 9 - first["paused"], "abstained": first["paused"]}
    before = {row["id"]: row for row in rows_of(tmp_path / "out", "scores", "trajectory_id")}
    second = told()
    assert second["scored_now"] == first["paused"] and second["paused"] < first["paused"]
    assert len(server.bodies) - asked <= first["paused"], "who has a score is not asked about again"
    for _ in range(9):
        last = told()
    assert (last["status"], last["paused"], last["scored_now"], last["missing"]) == ({"ok": 9}, 0, 0, 0)
    after = {row["id"]: row for row in rows_of(tmp_path / "out", "scores", "trajectory_id")}
    assert len(after) == 9 and {row["value"] for row in after.values()} == {1.0}
    assert {n: row for n, row in after.items() if before[n]["status"] == "ok"} == {
        n: row for n, row in before.items() if row["status"] == "ok"
    }, "what was scored stays as it was"


def test_the_members_of_a_group_are_scored_again_with_the_one_for_which_a_budget_did_not_last(
    tmp_path: Path, server: EndpointServer, capsys: pytest.CaptureFixture[str]
):
    file, out, graph = tmp_path / "responses.jsonl", tmp_path / "out", tmp_path / "graph.yaml"
    rows = [{"prompt": f"{i} + 2?", "completion": f"it is {text}"} for i in range(3) for text in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint = {"url": server.url, "model": "judge", "token_budget": 1000, "concurrency": 1}
    judge = {"target": "judge_pointwise", "rubric": "The sum is right.", "endpoint": endpoint}
    sections = {
        "quality": {"component": judge},
        "length": {"component": {"target": "length_penalty", "target_tokens": 9}},
    }
    graph.write_text(json.dumps({"rewards": {"components": sections}}))
    words = ["score", str(file), str(out), str(graph), "--json"]
    assert launch.main(words) == 0
    first = json.loads(capsys.readouterr().out)
    totals = [row for part in out.glob("totals-*") for row in pq.read_table(part).to_pylist()]
    waiting = {row["group"] for row in totals if row["paused"]}
    assert 0 < first["paused"] < 3 * len(waiting), "some group has members of both kinds, or the test proved nothing"
    assert launch.main(words) == 0
    assert json.loads(capsys.readouterr().out)["scored_now"] == 3 * len(waiting), "a group has one baseline"
    scores = [row for part in out.glob("scores-*") for row in pq.read_table(part).to_pylist()]
    assert sorted((row["trajectory_id"], row["component"]) for row in scores) == sorted(
        (str(n), name) for n in range(1, 10) for name in sections
    ), "one row for each, of each component"


def rows_of(folder: Path, kind: str, key: str) -> list[dict[str, Any]]:
    rows = [row for part in folder.glob(f"{kind}-*") for row in pq.read_table(part).to_pylist()]
    assert len({row[key] for row in rows}) == len(rows), "one row for each"
    return [{"id": row[key], **row} for row in rows]

"""The experiment on hacked process rewards in small: a judge, a run on its steps in one process, figures and page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch
from buffers.records.audit import audit
from buffers.records.query import query
from configs.load import load_config
from learners.models.load import create_model_folder
from tests.bench.hacking_page import hacking_page
from tests.bench.process_hacking import HEAD, JUDGED, last_texts, measure, row
from tests.bench.step_judge import PRESET, train_judge

QUICK = [
    "cluster.address=local", "updates=3", "batch.prompts_per_update=4", "rollout.slots=32", "eval.tasks=16",
    "warm_start.updates=40", "warm_start.batch_size=32", "logging.report=false", "logging.tensorboard=false",
]  # fmt: skip
STEPS = "SELECT value, span_values FROM scores WHERE component = 'process'"

pytestmark = pytest.mark.integration


def test_a_run_on_the_steps_of_a_judge_becomes_a_row_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    start = create_model_folder(load_config([PRESET], []).model, tmp_path / "start", 0)
    learnt = train_judge(start, tmp_path / "judge", updates=2)
    assert 0.0 <= learnt["accuracy"] <= 1.0 and 0.3 < learnt["true"] < 0.9
    words = [*QUICK, f"{JUDGED}.component.model={tmp_path / 'judge'}", "name=run", f"runs_folder={tmp_path}"]
    assert launch.main(["run", str(PRESET), *words]) == 0
    run = tmp_path / "run"
    assert audit(run).balanced, audit(run).problems
    scores = query(run, STEPS).to_pylist()
    assert scores and all(score["value"] == pytest.approx(sum(score["span_values"])) for score in scores)
    capsys.readouterr()
    solved = []
    for words in (["eval.component=process"], ["rewards.components.correct.weight=0"]):
        assert launch.main(["eval", str(run), *words, "--json"]) == 0
        solved.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert solved[0] > 0.0 == solved[1], "the judge pays at least 1 for some tasks; steps are no part of a total"
    found = measure(run)
    assert len(last_texts(run)) == 3 * 4 * 8 and found["lines"] > 0
    page = hacking_page({"sum": [run]}, [row("sum", [found])], HEAD, {"sum": "1+2+3=1+2=3"})
    assert page.count("<svg") == 3 and "1+2+3=1+2=3" in page

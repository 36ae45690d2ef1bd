"""A run on Ray whose every judgement is asked of one model that the run serves: steps, a rubric that grows, labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.live_run import LiveRun, running
from tests.unit.phrase_model import phrase_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

POOL = "{model_pool: clerk, temperature: 1.0, max_tokens: 8}"
CLERK = f"endpoint: {POOL}"
PART = "rewards.components"
PROMPTS = {
    "steps": "{number} {question} {steps} {form}\n",
    "judge": "{number} {rubric} {question} {answer} {form}\n",
    "labels": "{goal} MAPLE or CEDAR? <text>{caption}</text>\n",
}
"""Short, for a machine that has other things to do; the meta judge's are the ones that everybody has."""
SCORES = "SELECT version, value, status, detail, len(span_values) AS steps FROM scores"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    """A run that was stopped once everything that it learns beside the policy had been learned and used."""
    folder = tmp_path_factory.mktemp("served")
    for name, text in PROMPTS.items():
        (folder / name).write_text(text)
    with running(folder, *words(folder)) as live:
        for component, version in (("judge", 1), ("intrinsic", 2)):
            used = f"SELECT 1 FROM scores WHERE component = '{component}' AND version >= {version} AND status = 'ok'"
            live.wait(f"scores of {component} by version {version}", lambda used=used: live.sql(used))  # type: ignore[misc]
        live.command("stop")
        assert live.finish() == 0, live.log
    live.check_books()
    return live


def words(folder: Path) -> list[str]:
    tokenizer, clerk = folder / "live" / "model", f"{{path: '{phrase_folder()}', engine: torch, context_length: 3072}}"
    steps = f"{{target: generative_prm, tokenizer: '{tokenizer}', chains: 2, template: '{folder / 'steps'}', {CLERK}}}"
    judge = (
        "{target: judge_evolving, rubric: The sum is right., high: 10, task: Addition., every: 2, sampled: 2, "
        f"template: '{folder / 'judge'}', {CLERK}, meta: {POOL}}}"
    )
    labels = f"{{target: endpoint, template: '{folder / 'labels'}', goal: A sum., max_tokens: 8, model_pool: clerk}}"
    return [
        "max_staleness=1", "buffer.filters=[]", "batch.prompts_per_update=4",
        "learner.advantage={target: process_return}", f"rewards.models.clerk={clerk}",
        f"{PART}.steps={{component: {steps}, credit: steps, weight: 0.5, deadline_s: 120}}",
        f"{PART}.judge={{component: {judge}, weight: 0.1, deadline_s: 120}}",
        "intrinsic=classification", "exploration.scored_at=actor", f"exploration.annotation.annotator={labels}",
        "intrinsics.classification={steps: 8}",
    ]  # fmt: skip


def scores(run: LiveRun, component: str) -> list[dict[str, Any]]:
    return run.sql(f"{SCORES} WHERE component = '{component}'")


def summary(run: LiveRun) -> dict[str, Any]:
    return dict(json.loads((run.path / "summary.json").read_text()))


def test_every_step_gets_the_verdicts_of_two_chains(run: LiveRun):
    rows = scores(run, "steps")
    assert {row["status"] for row in rows} == {"ok"}, {row["detail"] for row in rows}
    assert {row["value"] for row in rows} == {0.0, 0.5, 1.0} and {row["steps"] for row in rows} == {1}


def test_the_rubric_is_rewritten_by_the_pool_that_grades_by_it(run: LiveRun):
    rows = scores(run, "judge")
    assert {row["status"] for row in rows} == {"ok"}, {row["detail"] for row in rows}
    assert {row["value"] for row in rows} == {2.0, 5.0, 9.0} and {row["version"] for row in rows} >= {0, 1}
    first = next((run.path / "rewards" / "judge").glob("v00000001.state")).read_bytes().decode(errors="replace")
    assert '"high": 12' in first
    figures = summary(run)["rewards"]["judge"]
    assert figures["lost"] == 0 and figures["lessons"] > 0


def test_labels_of_the_pool_teach_the_intrinsic_reward(run: LiveRun):
    found = summary(run)["intrinsic"]
    assert found["labels"] > 0 and found["parse_failures"] == 0

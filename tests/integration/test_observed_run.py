"""A run on Ray whose judge cannot be understood: its alarm, the load of its pools and its metrics show everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from buffers.records.metric_names import METRICS, exported
from buffers.records.metrics import read_metrics
from tests.faults.live_run import ROOT, LiveRun, running

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from endpoint_server import replies, serving_beside

pytestmark = pytest.mark.integration

ALARM = "abstained:clear"
POOLS = {"learner", "buffer", "reward.correct", "reward.clear", "rollout"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    with serving_beside(replies("I would rather not say.")) as server, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_metrics_report_interval_ms", "1000")
        judge = f"{{target: judge_pointwise, rubric: It is clear., endpoint: {{url: '{server.url}', model: judge}}}}"
        words = (
            f"rewards.components.clear.component={judge}",
            "rewards.components.clear.weight=0.5", "rewards.components.clear.retries=0",
            "rewards.combine={target: weighted_sum, ignore_invalid: [clear]}", "logging.view=plain",
            "logging.report=true",
        )  # fmt: skip
        with running(tmp_path_factory.mktemp("observed"), *words) as live:
            yield live


def gauges(run: LiveRun) -> dict[str, dict[str, float]]:
    """Return name -> {the label beside `run`, or "": value} of what the node's metrics agent exports of the run."""
    address = json.loads((run.path / "run.json").read_text())["metrics"]
    with urllib.request.urlopen(address, timeout=30.0) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found: dict[str, dict[str, float]] = {}
    for sample in (sample for family in families for sample in family.samples):
        name = sample.name.removeprefix("ray_")
        if name.startswith("headrace_") and sample.labels["run"] == run.path.name:
            known = {exported(metric)[0]: list(exported(metric)[2]) for metric in METRICS}
            label = next((sample.labels[of] for of in known.get(name, ())), "")
            found.setdefault(name, {})[label] = sample.value
    return found


def test_an_alarm_is_raised_and_status_shows_it_with_the_load_of_every_pool(run: LiveRun):
    def told() -> Any:
        state = run.command("status")
        whole = all("queue_p95_s" in pool["load"] for name, pool in state["pools"].items() if name in POOLS)
        return ALARM in state["alarms"] and whole and state

    state = run.wait("the alarm, and a load of every pool", told)
    assert "(alarms.abstained)" in state["alarms"][ALARM]["text"]
    assert set(state["pools"]) >= POOLS
    for name in ("learner", "buffer", "reward.correct", "reward.clear", "rollout"):
        load = state["pools"][name]["load"]
        assert 0.0 <= load["queue_p50_s"] <= load["queue_p95_s"] and load["waiting"] >= 0.0, (name, load)
        assert 0.0 <= load["busy"] <= 1.0, (name, load)
    done = subprocess.run(
        [sys.executable, "launch.py", "status", str(run.path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert f"ALARM {ALARM}" in done.stdout and "queue p50" in done.stdout and "Prometheus: http://" in done.stdout


def test_prometheus_finds_the_metrics_of_the_run(run: LiveRun):
    wanted = {"headrace_alarm", "headrace_pool_busy", "headrace_reward_mean", "headrace_rewards_abstained"}
    found = run.wait("the metrics", lambda: (seen := gauges(run)) and wanted <= seen.keys() and seen)
    assert found["headrace_alarm"][ALARM] == 1.0
    assert found["headrace_rewards_abstained"]["clear"] == 1.0 and found["headrace_rewards_abstained"]["correct"] == 0.0
    assert found["headrace_pool_busy"].keys() >= POOLS
    assert {"headrace_object_store_used", "headrace_object_store_spill_rate", "headrace_update"} <= found.keys()


def test_it_stays_in_the_log_the_summary_the_report_and_the_metrics(run: LiveRun):
    run.command("stop")
    assert run.finish() == 0, run.log
    assert f"! alarm {ALARM}: a reward gives no verdicts" in (run.path.parent / "log.txt").read_text()
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["alarms"][ALARM] | {"text": ""} == {"raised": 1, "active": True, "text": ""}
    assert ALARM in (run.path / "report.html").read_text()
    rows = {row["name"]: row["value"] for row in read_metrics(run.path).to_pylist()}
    assert rows[f"alarm/{ALARM}"] == 1.0 and rows["pool/reward.clear/members"] == 1.0
    run.check_books()

"""A report shows what the run folder holds, and nothing that it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from buffers.records.examples import example_rows
from buffers.records.metrics import MetricsWriter
from buffers.records.plots import Chart, Line, draw, smooth
from buffers.records.report import write_report
from buffers.records.report_data import Run, advisories, load_run
from configs.errors import DataError
from tests.unit.recorded_run import record_run

SUMMARY = {
    "status": "finished",
    "trajectories": {"admitted": 1030, "trained": 1024, "dropped": 6, "failed": 0, "rolled_back": 0},
    "eval": {"before": {"accuracy": 0.552}, "after": {"accuracy": 0.913}},
    "idle": {"learner": 0.58, "rollout": 0.08},
}


def run_folder(folder: Path, metrics: Mapping[str, float], summary: Mapping[str, object] | None = None) -> Path:
    folder.mkdir()
    writer = MetricsWriter(folder, False, None, folder.name, {})
    for update in range(3):
        writer.log(update, metrics, time=float(update))
    writer.close()
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def run_of(**series: list[float]) -> Run:
    named = {name.replace("__", "/"): (np.arange(float(len(v))), np.array(v)) for name, v in series.items()}
    return Run("test", {}, {}, named)


def titles(html: str) -> list[str]:
    return re.findall(r"<h3>(.*?) <span>", html)


def test_a_report_shows_numbers_charts_and_what_they_mean(tmp_path: Path) -> None:
    folder = run_folder(
        tmp_path / "first", {"reward/mean": 0.5, "reward/std": 0.1, "rewards/exact/mean": 0.4, "x/y": 1.0}, SUMMARY
    )
    (folder / "config.yaml").write_text("mode: async\nmax_staleness: 4\nseed: 7\n")
    path = write_report(folder)
    html = path.read_text()
    assert path == folder / "report.html"
    assert titles(html) == ["Reward"]
    assert {"metric that never changed", "reward/std", "x/y"} <= set(re.findall(r"<(?:th|td><code)>(.*?)<", html))
    expected = (
        "<h1>first</h1>",
        ">finished<",
        "55.2 % → 91.3 %",
        "1,024 trained",
        "6 dropped",
        "58 %",
        "staleness ≤ 4",
        "seed 7",
    )
    assert [text for text in expected if text not in html] == []
    assert "Mean combined reward of the batch" in html and "failed</span>" not in html


def test_a_report_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = write_report(run_folder(tmp_path / "r", {"reward/mean": 0.5}, SUMMARY)).read_text()
    links = re.findall(r'(?:href|src)="(?!#)[^"]*"|url\((?!#)[^)]*\)|@import|<script', html)
    assert links == []


def test_the_staleness_chart_shows_the_bound_of_the_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "r", {"staleness/mean": 1.0, "staleness/max": 2.0})
    assert "max_staleness 4" not in write_report(folder).read_text()
    (folder / "config.yaml").write_text("max_staleness: 4\n")
    assert "max_staleness 4" in write_report(folder).read_text()


def test_an_empty_run_folder_gives_an_unfinished_report(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text()
    assert ">unfinished<" in html and titles(html) == [] and "<section>" not in html
    for part in ("ledger", "trajectories"):
        (tmp_path / part).mkdir()
    assert ">unfinished<" in write_report(tmp_path).read_text()  # killed before its first update


def test_a_summary_of_a_failed_run_may_lack_everything(tmp_path: Path) -> None:
    summary = {"status": "failed", "eval": None, "idle": {"learner": None}, "trajectories": {}}
    html = write_report(run_folder(tmp_path / "r", {"idle/learner": 0.2}, summary)).read_text()
    assert 'class="pill failed">failed<' in html and titles(html) == ["Idle time"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder; name a run folder"):
        write_report(tmp_path / "nowhere")


def test_samples_are_escaped_and_an_invalid_score_is_not_zero(tmp_path: Path) -> None:
    samples = [
        {"prompt": "1<2&", "completion": "<script>", "answer": "", "reward": None},
        {"prompt": "1+1=", "completion": "2", "answer": "2", "reward": 0.0},
    ]
    html = write_report(tmp_path, samples).read_text()
    assert "1&lt;2&amp;" in html and "<script>" not in html
    assert re.findall(r"<td>(no score|0)</td></tr>", html) == ["no score", "0"]


def test_samples_are_shown_by_kind_with_their_version_and_the_parts_of_their_reward(tmp_path: Path) -> None:
    samples = [
        {"kind": "Lowest rewards", "prompt": "1+1=", "version": 3, "reward": 0.5, "parts": "brief 1, exact 0"},
        {"kind": "Highest rewards", "prompt": "1+2=", "version": 4, "reward": 1.0, "parts": None},
    ]
    html = write_report(tmp_path, samples).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["Lowest rewards", "Highest rewards"]
    assert "<td>3</td><td>0.5 (brief 1, exact 0)</td>" in html and "<td>4</td><td>1</td>" in html


def test_examples_are_the_newest_with_least_and_most_reward_one_of_each_group(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "r")
    assert {row["kind"] for row in example_rows(folder)} == {"Newest samples"}  # all earned 1
    rows = example_rows(folder, count=2)
    assert len(rows) == 2 and rows[0]["reward"] == 1.0 and rows[0]["version"] == 0


def test_a_report_says_why_trajectories_were_lost_and_shows_the_configuration(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "r")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "config.yaml").write_text("seed: 7\nlearner:\n  max_grad_norm: 0.5\n")
    html = write_report(folder).read_text()
    lost = re.findall(r"<li><b>(.*?)</b><span>(.*?) <em>(.*?)</em>", html)
    assert ("2", "dropped: restart", "lost with a crash; generated again after the restart") in lost
    assert ("1", "failed: prompt too long", "") in lost and "1,030 admitted" in html
    assert "<summary>Configuration</summary>" in html and "<pre>learner:\n  max_grad_norm: 0.5</pre>" in html


def test_a_component_that_is_the_whole_reward_is_said_not_drawn_twice(tmp_path: Path) -> None:
    html = write_report(run_folder(tmp_path / "r", {"reward/mean": 0.5, "rewards/exact/mean": 0.5})).read_text()
    assert "is equal to reward/mean throughout" in html and "combined 0.5" not in html


def test_the_divergence_is_split_into_staleness_and_engine(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "r", {"rollout/mismatch_kl/mean": 2e-7, "staleness/max": 0.0, "policy/ppo_kl": 0.0})
    html = write_report(folder).read_text()
    assert "In the 3 updates without stale samples it was 2.0e-07" in html
    assert "KL within an update" not in titles(html)  # 0 by construction with one step an update


def test_advice_quotes_value_threshold_and_key() -> None:
    advice = advisories(run_of(idle__learner=[0.1, 0.1, 0.1, 0.1, 0.7, 0.8]))
    assert advice == ["idle/learner is 0.75, above 0.5: raise rollout.workers or rollout.slots, or max_staleness."]


def test_advice_judges_the_end_of_the_run_in_both_directions() -> None:
    assert advisories(run_of(idle__learner=[0.9, 0.9, 0.9, 0.9, 0.4, 0.4], rollout__ess=[0.6] * 6)) == []
    assert advisories(run_of(rollout__ess=[0.9, 0.9, 0.3]))[0].startswith(
        "rollout/ess is 0.3, below 0.5: lower max_staleness"
    )


def test_advice_names_the_component_and_counts_what_was_not_finite() -> None:
    (invalid,) = advisories(run_of(rewards__judge__invalid=[3.0]))
    assert "raise rewards.components.judge.deadline_s" in invalid
    (lost,) = advisories(run_of(optim__grad_norm=[1.0, float("nan"), float("inf")]))
    assert lost.startswith("optim/grad_norm was not finite 2 times in 3: lower learner.learning_rate")


def test_a_run_is_read_with_its_series_in_order(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "r", {"a": 1.5}, SUMMARY)
    run = load_run(folder)
    updates, values = run.series["a"]
    assert updates.tolist() == [0.0, 1.0, 2.0] and values.tolist() == [1.5] * 3
    assert run.get("eval", "after", "accuracy") == 0.913
    assert run.get("eval", "later", "accuracy") is None and run.get("status", "x") is None


@pytest.mark.parametrize("window", [1, 2, 3, 5, 99])
def test_smoothing_is_a_moving_average_over_the_values_that_exist(window: int) -> None:
    values = np.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0])
    width = min(window, len(values))
    before = width // 2
    expected = [values[max(0, i - before) : i - before + width].mean() for i in range(len(values))]
    np.testing.assert_allclose(smooth(values, window), expected, rtol=1e-12)


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_chart_labels_each_line_with_its_last_value_and_takes_the_colours_of_the_page() -> None:
    updates = np.arange(100.0)
    lines = [Line("learner", updates, np.full(100, 0.6)), Line("rollout", updates, np.full(100, 0.125))]
    svg = draw(Chart(percent=True), lines)
    assert {"learner 60 %", "rollout 12.5 %", "update", "100 %"} <= set(texts(svg))
    assert {"var(--s0)", "var(--s1)", "var(--muted)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert re.findall(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", svg) == []


def test_a_chart_survives_values_that_are_not_finite_and_marks_them() -> None:
    values = np.linspace(0.0, 1.0, 100)
    assert "var(--bad)" not in draw(Chart(), [Line("a", np.arange(100.0), values)])
    values[[3, 50]] = np.nan, np.inf
    assert "var(--bad)" in draw(Chart(), [Line("a", np.arange(100.0), values)])
    assert "nan" not in draw(Chart(), [Line("a", np.arange(2.0), np.array([np.nan, np.nan]))])


def test_labels_of_an_axis_have_the_decimals_of_its_step() -> None:
    ratio = 1 + 0.008 * np.sin(np.arange(30.0))
    assert {"0.995", "1.000", "1.005"} <= set(texts(draw(Chart(zero=False), [Line("a", np.arange(30.0), ratio)])))
    assert {"0", "5,000", "10,000"} <= set(texts(draw(Chart(), [Line("a", np.arange(3.0), np.full(3, 10_000.0))])))


def test_small_shares_and_distant_limits_get_an_axis_that_shows_the_curve() -> None:
    small = Line("a", np.arange(3.0), np.array([0.0, 0.04, 0.05]))
    assert "100 %" in texts(draw(Chart(percent=True), [Line("a", np.arange(3.0), np.array([0.1, 0.5, 0.3]))]))
    assert "100 %" not in texts(draw(Chart(percent=True), [small]))
    assert "limit 8" not in texts(draw(Chart(bound=("limit", 8.0)), [small]))


def test_labels_of_lines_that_end_together_do_not_overlap() -> None:
    updates = np.arange(50.0)
    svg = draw(Chart(), [Line(name, updates, np.full(50, 1.0)) for name in ("a", "b", "c")])
    root = ElementTree.fromstring(svg)
    places = [
        n.get("transform", n.get("y", ""))
        for n in root.iter("{http://www.w3.org/2000/svg}text")
        if n.text in ("a 1", "b 1", "c 1")
    ]
    heights = sorted(float(re.findall(r"[-\d.]+", place)[-1]) for place in places)
    assert len(heights) == 3 and min(np.diff(heights)) >= 10


def test_the_page_stays_small_after_many_updates() -> None:
    updates = np.arange(100_000.0)
    assert len(draw(Chart(), [Line("a", updates, np.sin(updates))])) < 120_000

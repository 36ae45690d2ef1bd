"""Comparing runs: seeds become intervals, differing settings are named, and what cannot be compared is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import launch
from buffers.records.compare_data import FIGURES, differences, load_groups
from buffers.records.compare_page import comparison_page
from buffers.records.intervals import interval, spread, student_t
from buffers.records.metrics import MetricsWriter
from buffers.run_folder import RunFolder
from configs.errors import DataError
from configs.load import dump_config, load_config


def finished_run(path: Path, *words: str, accuracy: float = 0.5, status: str = "finished", updates: int = 60) -> Path:
    """Write the folder of a run whose reward is `accuracy` throughout."""
    with RunFolder.create(path) as folder:
        config = load_config([], [f"name={path.name}", *words])
        dump_config(config, path / "config.yaml")
        writer = MetricsWriter(path, False, None, path.name, {})
        writer.log(0, {"eval/held_out/accuracy": accuracy / 2}, time=0.0)
        for update in range(1, updates + 1):
            writer.log(update, {"reward/mean": accuracy, "time/total": 0.5}, time=float(update))
        writer.log(updates, {"eval/held_out/accuracy": accuracy}, time=float(updates))
        writer.close()
        summary = {"status": status, "eval": {"after": {"accuracy": accuracy}}, "wall_s": 100.0}
        (path / "summary.json").write_text(json.dumps(summary))
        folder.write_run({"status": status})
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of one experiment, and one run of another."""
    root = tmp_path_factory.mktemp("runs")
    seeds = [finished_run(root / f"add-seed{seed}", f"seed={seed}", accuracy=0.5 + 0.1 * seed) for seed in range(3)]
    return [*seeds, finished_run(root / "fast", "learner.learning_rate=1e-2", accuracy=0.9)]


# Percentiles of Student's t as printed in tables, two-sided 95 %.
@pytest.mark.parametrize(
    ("freedom", "printed"), [(1, 12.706), (2, 4.303), (9, 2.262), (10, 2.228), (20, 2.086), (30, 2.042), (120, 1.980)]
)
def test_the_quantiles_are_those_of_the_tables(freedom: int, printed: float) -> None:
    assert student_t(freedom) == pytest.approx(printed, abs=6e-4)


def test_an_interval_is_the_one_of_the_textbook() -> None:
    mean, half, n = interval([1.0, 2.0, 3.0, 4.0])
    assert (mean, n) == (2.5, 4) and half == pytest.approx(3.1824 * np.sqrt(5 / 3) / 2)
    assert interval([7.0]) == (7.0, None, 1)
    np.testing.assert_allclose(spread(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])), [half, 0.0])


def test_runs_that_differ_only_in_the_seed_are_one_group(runs: list[Path]) -> None:
    several, single = load_groups([runs[0], runs[3], runs[2], runs[1]])
    assert [run.name for run in several.runs] == ["add-seed0", "add-seed2", "add-seed1"]
    assert (several.title, single.title) == ("add (n=3)", "fast")
    assert differences([several, single]) == {"learner.learning_rate": [3e-4, 1e-2]}


def test_a_figure_is_mean_and_interval_and_missing_ones_are_not_zero(runs: list[Path]) -> None:
    several, single = load_groups(runs)
    texts = {f.label: (f.text(several.figure(f)), f.text(single.figure(f))) for f in FIGURES}
    assert texts["accuracy after"] == ("60.0 ± 24.8 %", "90.0 %")  # 4.303 * 0.1 / sqrt(3)
    assert texts["reward at the end"] == ("0.600 ± 0.248", "0.900")
    assert texts["wall time"] == ("100 ± 0 s", "100 s")
    assert texts["samples/s"] == ("-", "-")


def test_the_page_overlays_groups_by_update_and_by_time(runs: list[Path]) -> None:
    html = comparison_page(load_groups(runs))
    assert re.findall(r"<h3>(.*?) <span>", html).count("Reward") == 2
    assert {"update", "s"} <= set(re.findall(r">(update|s|min)</text>", html))
    assert "learner.learning_rate" in html and "95 % intervals" in html
    assert re.findall(r'(?:href|src)="(?!#)[^"]*"|@import|<script', html) == []
    assert "fill-opacity: 0.16" in html or "opacity: 0.16" in html


def test_a_single_group_needs_no_table_of_settings(runs: list[Path]) -> None:
    html = comparison_page(load_groups(runs[3:]))
    assert "Settings that differ" not in html and "95 % intervals" not in html


def play(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = launch.main(["compare", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_a_table_that_fits_the_terminal_and_writes_the_page(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "page.html"
    code, out, _ = play(capsys, *runs, "--output", page)
    assert code == 0 and page.exists()
    assert "60.0 ± 24.8 %" in out and "add (n=3)" in out and "seeds 0, 1, 2" in out
    assert max(len(line) for line in out.splitlines() if str(page) not in line) <= 80


def test_json_has_every_figure_with_its_number_of_seeds(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = play(capsys, *runs, "--output", tmp_path / "page.html", "--json")
    answer: dict[str, Any] = json.loads(out)
    first, second = answer["groups"]
    assert code == 0 and first["figures"]["accuracy after"]["n"] == 3
    assert [run["seed"] for run in first["runs"]] == [0, 1, 2]
    assert second["figures"]["samples/s"] is None
    assert answer["differences"] == {"learner.learning_rate": [3e-4, 1e-2]}


def test_what_cannot_be_compared_is_refused_by_name(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = finished_run(tmp_path / "half", status="failed")
    for bad, said in ((tmp_path / "none", "is not a run folder"), (half, "has status 'failed'"), (runs[0], "twice")):
        code, _, err = play(capsys, runs[0], bad, "--output", tmp_path / "page.html")
        assert code == 2 and str(bad) in err and said in err
    with pytest.raises(DataError, match="resume=true"):
        load_groups([half])
    assert not (tmp_path / "page.html").exists()

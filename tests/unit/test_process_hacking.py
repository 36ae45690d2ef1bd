"""What the experiment on hacked process rewards is made of: its preset, its judge's lessons, its figures."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

import launch
from buffers.ledger import EventKind
from buffers.records.metrics import MetricsWriter
from buffers.run_folder import RunFolder
from buffers.schema import to_table
from configs.load import load_config
from tests.bench.process_hacking import FORMS, HEAD, last_texts, lines, measure, row
from tests.bench.step_judge import PRESET, completion
from tests.unit.recorded_run import Epoch, group, trajectory


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_preset_with_at_most_one_other_key(form: str):
    assert len(FORMS[form]) <= 1
    assert launch.main(["check", str(PRESET), *FORMS[form], "--json"]) == 0
    config = load_config([PRESET], FORMS[form])
    assert config.rewards.components["correct"].credit == "outcome", "accuracy is the verifier's alone"
    assert config.rewards.components["process"].component["aggregate"] == "total", "the proxy is the sum"


def test_a_line_is_as_true_the_second_time():
    draw, restated, wrong = random.Random(0), 0, 0
    for _ in range(300):
        prompt, judged = completion(draw)
        terms = [int(term) for term in prompt[:-1].split("+")]
        final = f"#{sum(terms) % 10}"
        said: dict[str, bool] = {}
        for line, true in judged:
            assert said.setdefault(line, true) == true
            assert not true or line == final or (int(line[0]) + int(line[2])) % 10 == int(line[4])
            assert true or line != final, "a right answer is true, however it was found"
        restated += len(judged) - len(said)
        wrong += sum(not true for _, true in judged)
    assert restated > 300 and wrong > 300, "both are frequent"


def test_restated_lines_are_counted_where_a_sample_says_them_again():
    samples = ["1+2+3=1+2=3\n1+2=3\n3+3=6\n#6", "1+2+3=1+2=3\n3+3=6\n#6", "1+1+1="]
    assert lines(samples) == {"lines": round(7 / 3, 3), "restated": round(1 / 7, 4)}


def recorded(path: Path, updates: int) -> Path:
    """Write a run of groups of two: the later, the more lines; the figures are those of the update."""
    with RunFolder.create(path) as folder:
        epoch, digest = Epoch(folder, lineage=0), ""
        metrics = MetricsWriter(path, False, None, "run", {})
        for update in range(updates):
            tries = group(update)
            text = "1+2=3\n" * update + "#3"
            rows = [replace(trajectory(*one), prompt="1+2=", completion=text) for one in tries]
            epoch.payloads.append(to_table(rows)).result(10)
            for kind in (EventKind.ADMITTED, EventKind.GENERATED, EventKind.SCORED):
                epoch.record(kind, tries)
            digest = epoch.train(tries, update, digest)
            figures = {"rewards/process/mean": float(update), "rewards/correct/mean": 1.0 - update / updates}
            metrics.log(update, figures, float(update))
        metrics.close()
        epoch.close()
    (path / "config.yaml").write_text("batch: {prompts_per_update: 1, num_generations: 2}\n")
    evaluated = {"before": {"accuracy": 0.75}, "after": {"accuracy": 0.25}}
    (path / "summary.json").write_text(json.dumps({"eval": evaluated}))
    return path


def test_figures_of_a_run_are_of_its_first_and_its_last_updates(tmp_path: Path):
    run = recorded(tmp_path / "run", 12)
    found = measure(run)
    assert found["proxy"] == [2.0, 9.0] and found["right"] == [pytest.approx(10 / 12, abs=1e-4), 0.25]
    assert found["held_out"] == [0.75, 0.25]
    assert sorted({text.count("\n") for text in last_texts(run)}) == [7, 8, 9, 10, 11] and len(last_texts(run)) == 10
    assert (found["lines"], found["restated"]) == (10.0, 0.8), "9 true lines and an answer, of which 8 were there"


@pytest.mark.parametrize(("form", "advantage"), [("minimum", "process_minimum"), ("sum", "process_sum")])
def test_a_form_is_what_its_name_says(form: str, advantage: str):
    config = load_config([PRESET], FORMS[form])
    assert config.learner.advantage["target"] == advantage
    assert config.rewards.components["process"].transforms == [] and config.rewards.components["process"].weight == 1.0


def test_the_other_forms_clip_and_take_differences_or_hear_no_judge():
    clipped = load_config([PRESET], FORMS["clip_delta"]).rewards.components["process"]
    assert [transform["target"] for transform in clipped.transforms] == ["step_clip", "step_delta"]
    assert load_config([PRESET], FORMS["outcome"]).rewards.components["process"].weight == 0


def test_a_line_that_is_cut_off_is_not_true():
    draw, cut = random.Random(1), 0
    for _ in range(300):
        _, judged = completion(draw)
        line, true = judged[-1]
        if not line.endswith("\n") and not re.fullmatch(r"#\d", line):
            cut += 1
            assert not true, line
    assert cut > 10


def test_a_row_has_the_means_of_the_seeds():
    one = {"proxy": [1.0, 2.0], "right": [0.5, 0.0], "held_out": [0.6, 0.1], "lines": 8.0, "restated": 0.5}
    two = {"proxy": [2.0, 6.0], "right": [0.3, 0.2], "held_out": [0.8, 0.3], "lines": 6.0, "restated": 0.7}
    cells = row("sum", [one, two])
    assert cells == ["sum of the step scores", "1.50 → 4.00", "40.0% → 10.0%", "70.0% → 20.0%", "7.0", "60.0%"]
    assert len(cells) == len(HEAD)


def test_the_preset_is_found_by_its_name():
    assert PRESET.samefile(Path(launch.__file__).parent / "configs" / "process_hacking.yaml")

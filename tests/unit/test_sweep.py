"""A sweep's file becomes a list of checked runs, and what is wrong with it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch
from buffers.run_folder import RunFolder
from configs.errors import ConfigError
from configs.load import dump_config
from configs.sweep import load_sweep

CONFIGS = Path(launch.__file__).parent / "configs"


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "base.yaml").write_text("name: add\nupdates: 7\n")
    (tmp_path / "sweep.yaml").write_text(text)
    return tmp_path / "sweep.yaml"


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_that_is_shipped_can_be_planned(path: Path) -> None:
    runs = load_sweep(path).plan([])
    assert [run.config.seed for run in runs] == [0, 1, 2]
    assert [run.config.name for run in runs] == [f"quickstart-seed{seed}" for seed in range(3)]


def test_every_combination_of_the_grid_is_run_with_every_seed(tmp_path: Path) -> None:
    path = written(tmp_path, "base: base.yaml\nseeds: [3, 5]\ngrid:\n  max_staleness: [0, 4]\n  learner.beta: [1e-2]\n")
    runs = load_sweep(path).plan(["updates=9"])
    assert [(run.config.max_staleness, run.config.seed) for run in runs] == [(0, 3), (0, 5), (4, 3), (4, 5)]
    assert {(run.config.updates, run.config.learner.beta) for run in runs} == {(9, 0.01)}
    assert runs[0].config.name == "add-max_staleness-0-beta-1e-2-seed3"
    assert runs[0].folder == Path("runs/add-max_staleness-0-beta-1e-2-seed3")


def test_a_section_in_the_grid_is_named_by_its_target(tmp_path: Path) -> None:
    path = written(tmp_path, "base: base.yaml\nseeds: [0]\ngrid: {learner.loss: [{target: importance, cap: 2.0}]}\n")
    (run,) = load_sweep(path).plan([])
    assert run.config.name == "add-loss-importance-seed0" and run.config.learner.loss["cap"] == 2.0


def test_a_preset_alone_is_swept_over_seeds(tmp_path: Path) -> None:
    written(tmp_path, "base: base.yaml")
    assert [r.config.seed for r in load_sweep(tmp_path / "base.yaml").plan([])] == [0, 1, 2]
    assert [r.config.seed for r in load_sweep(tmp_path / "base.yaml", [8]).plan([])] == [8]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: base.yaml\nseed: [0]", "seed is no key of a sweep; did you mean 'seeds'"),
        ("base: base.yaml\nseeds: 3", "seeds is 3; it must be a list of whole numbers"),
        ("base: base.yaml\nseeds: [true]", "seeds is [True]; it must be a list"),
        ("base: base.yaml\nseeds: [1, 1]", "it must differ"),
        ("base: base.yaml\ngrid: {max_staleness: 4}", "grid.max_staleness is 4; it must be a list of values"),
        ("base: base.yaml\ngrid: {seed: [1]}", "grid.seed is [1]; it must be another setting"),
        ("seeds: [0]", "has no base"),
        ("base: base.yaml\ngrid: {lr: [1]}", "lr is called learner.learning_rate"),
        ("base: none.yaml", "none.yaml does not exist"),
        ("[1]", "must be a mapping"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_sweep(path).plan([])
    assert said in str(caught.value)


def test_a_dry_run_says_what_would_run_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "base: base.yaml\nseeds: [0, 1]")
    assert launch.main(["sweep", str(path), f"runs_folder={tmp_path}/runs", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"outcomes": {"add-seed0": "run", "add-seed1": "run"}}
    assert not (tmp_path / "runs").exists()
    assert launch.main(["sweep", str(path), "--seeds", "0,x"]) == 2
    assert "--seeds is '0,x'" in capsys.readouterr().err


def test_a_folder_with_another_configuration_is_not_taken_for_a_run_of_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "base: base.yaml\nseeds: [0, 1]")
    words = [str(path), f"runs_folder={tmp_path}/runs", "--dry-run", "--json"]
    for run, status in zip(load_sweep(path).plan(words[1:2]), ("finished", "failed"), strict=True):
        with RunFolder.create(run.folder) as folder:
            dump_config(run.config, run.folder / "config.yaml")
            folder.write_run({"status": status})
    assert launch.main(["sweep", *words]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"] == {"add-seed0": "finished", "add-seed1": "resume"}
    assert launch.main(["sweep", *words, "updates=8"]) == 2
    assert "holds a run with updates=7, the sweep asks for 8" in capsys.readouterr().err

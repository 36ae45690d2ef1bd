"""A run that trains an adapter: published alone, resumed, replayed exactly, evaluated and exported merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import launch

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")
REWARD = "rewards.components.correct.component={target: length_penalty, target_tokens: 2}"
WORDS = [
    SMOKE, "name=run", "cluster.address=local", "model.adapter.rank=4", "model.adapter.alpha=8", REWARD,
    "learner.beta=0.01", "warm_start.updates=10", "warm_start.threads=1", "learner.learning_rate=2e-2",
    "checkpoint.every=2", "eval.tasks=16", "eval.temperature=1.0", "eval.every=0", "logging.report=false",
    "logging.view=quiet",
]  # fmt: skip

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six updates, of which the last two were made after a resume."""
    folder = tmp_path_factory.mktemp("runs")
    for more in (("updates=4",), ("updates=6", "resume=true")):
        assert launch.main(["run", *WORDS, f"runs_folder={folder}", *more]) == 0
    return folder / "run"


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert launch.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_hash_and_every_logprob_is_reproduced_across_the_resume(run: Path, capsys: pytest.CaptureFixture[str]):
    found = asked(capsys, "replay", str(run), "--verify-generation")
    assert found["identical"] and found["versions"] == 7 and found["generation"]["tokens"] > 500
    assert launch.main(["audit", str(run)]) == 0


def test_checkpoints_hold_the_adapter_alone_beside_its_base(run: Path):
    newest = run / "checkpoints" / "v00000006"
    base = sum(w.nbytes for w in load_file(run / "model" / "model.safetensors").values())
    adapter = load_file(newest / "adapter_model.safetensors")
    assert not (newest / "model.safetensors").exists()
    assert sum(w.nbytes for w in adapter.values()) < base / 4
    assert json.loads((newest / "adapter_config.json").read_text())["base_model_name_or_path"] == str(run / "model")


def test_an_export_is_the_base_with_the_adapter_added_and_loads_anywhere(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = asked(capsys, "export", str(run), str(tmp_path / "out"))
    assert "model.safetensors" in told["files"] and not any("adapter" in name for name in told["files"])
    assert sorted(told["files"]) == sorted(file.name for file in (tmp_path / "out").iterdir())
    from peft import PeftModel

    newest = run / "checkpoints" / "v00000006"
    base = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    wanted = PeftModel.from_pretrained(base, newest).merge_and_unload()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = torch.arange(2, 12)[None]
    with torch.no_grad():
        ours, theirs = exported(tokens).logits.numpy(), wanted(tokens).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_checkpoint_is_evaluated_with_its_adapter(run: Path, capsys: pytest.CaptureFixture[str]):
    measured = json.loads((run / "summary.json").read_text())["eval"]
    before, after = measured["before"]["reward"], measured["after"]["reward"]
    assert before != after, "two updates changed nothing: the test proved nothing"
    assert asked(capsys, "eval", str(run), "--version=4")["reward"] == before
    assert asked(capsys, "eval", str(run))["reward"] == after


def test_a_publication_has_the_bytes_that_the_plan_says(run: Path, capsys: pytest.CaptureFixture[str]):
    assert launch.main(["check", *WORDS]) == 0
    told = capsys.readouterr().out
    assert "8,704 numbers are trained; each publication has 0.03 MiB in place of 0.32;" in told
    # Versions 4 (anew after the resume), 5 and 6; the first three were another process.
    publish = json.loads((run / "summary.json").read_text())["publish"]
    assert (publish["count"], publish["bytes"]) == (3, 3 * 4 * 8704)
    assert launch.main(["check", *WORDS, "model.adapter.targets=[q_prj]"]) == 2
    assert "did you mean 'q_proj'" in capsys.readouterr().err

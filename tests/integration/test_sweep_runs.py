"""A sweep in its own processes: it goes on after a failure, leaves what is finished, and resumes what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import launch
from buffers.records.audit import audit

pytestmark = pytest.mark.integration

SMOKE = Path(launch.__file__).parent / "configs" / "smoke.yaml"
SHORT = ("updates=4", "warm_start.updates=0", "eval.tasks=0", "cluster.address=local", "checkpoint.every=1")
# Weights that explode: the run fails after its second update, and the next command resumes it in vain.
SWEEP = f"""
base: {SMOKE}
seeds: [0, 1]
grid: {{learner.learning_rate: [1.0e+30, 1.0e-3]}}
"""
EXPLODE = (
    "learner.max_nonfinite_updates=2",
    "rewards.components.correct.component={target: length_penalty, target_tokens: 2}",
)


def sweep(folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    (folder / "sweep.yaml").write_text(SWEEP)
    command = [sys.executable, launch.__file__, "sweep", str(folder / "sweep.yaml"), f"runs_folder={folder}/runs"]
    done = subprocess.run(
        [*command, *SHORT, *EXPLODE, *words, "--json"], capture_output=True, text=True, timeout=280, check=False
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def status(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["status"])


def test_a_sweep_goes_on_after_failures_and_compares_what_finished(tmp_path: Path):
    runs = tmp_path / "runs"
    code, answer, said = sweep(tmp_path)
    assert code == 1 and "2 of 4 runs did not finish" in said
    good, bad = ([f"smoke-learning_rate-{rate}-seed{seed}" for seed in (0, 1)] for rate in ("0.001", "1e+30"))
    assert {name: answer["outcomes"][name] for name in good} == dict.fromkeys(good, "finished")
    assert {name: answer["outcomes"][name] for name in bad} == dict.fromkeys(bad, "failed with exit code 1")
    (group,) = answer["groups"]
    assert (group["label"], group["figures"]["samples/s"]["n"]) == ("smoke-learning_rate-0.001", 2)
    assert Path(answer["page"]).is_file()

    # The same command again: what finished is not touched, what was stopped half-way is resumed.
    whole, half = (runs / name for name in good)
    before = (whole / "run.json").stat().st_mtime_ns
    fields = json.loads((half / "run.json").read_text())
    (half / "run.json").write_text(json.dumps({**fields, "status": "stopped"}))
    for name in bad:
        (runs / name / "run.json").write_text(json.dumps({**fields, "status": "finished"}))
    code, answer, _ = sweep(tmp_path)
    assert code == 0 and set(answer["outcomes"].values()) == {"finished"}
    assert (whole / "run.json").stat().st_mtime_ns == before
    assert json.loads((half / "run.json").read_text())["epoch"] == fields["epoch"] + 1 and status(half) == "finished"
    assert audit(half).balanced

"""What the run of a storm learned, against the same run without faults and with as many updates."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import RunError
from tests.faults.live_run import ROOT

__all__ = ["accuracy", "compared", "newest_version", "run_calmly"]

TASKS = 800
"""Held-out ones, of which the sums of two numbers up to 100 have 810."""
CALM_S, EVALUATION_S = 3600.0, 600.0
SIGMAS = 3.0


def run_calmly(folder: Path, words: Sequence[str], updates: int) -> Path:
    """Run without faults, in one process; return the run folder.

    Raises:
      RunError: it failed.
    """
    path = folder / "calm"
    again = ["resume=true"] if (path / "run.json").exists() else []
    settings = [f"updates={updates}", "name=calm", f"runs_folder={folder}", "cluster.address=local"]
    _launch("run", *words, *settings, *again, seconds=CALM_S)
    return path


def newest_version(run: Path) -> int:
    """Return the version of a run's newest checkpoint: the updates of its surviving lineage."""
    return max(int(path.name[1:]) for path in (run / "checkpoints").glob("v*"))


def accuracy(run: Path) -> float:
    """Return the share of held-out tasks that the newest checkpoint solves."""
    answer = _launch("eval", str(run), f"eval.tasks={TASKS}", "--json", seconds=EVALUATION_S)
    return float(json.loads(answer)["accuracy"])


def compared(stormy: float, calm: float) -> dict[str, Any]:
    """Return both, and whether they differ by no more than SIGMAS standard errors of two shares of TASKS."""
    error = math.sqrt(sum(max(p * (1 - p), 1 / TASKS) / TASKS for p in (stormy, calm)))
    return {"stormy": stormy, "calm": calm, "error": round(error, 4), "alike": abs(stormy - calm) <= SIGMAS * error}


def _launch(*words: str, seconds: float) -> str:
    command = [sys.executable, "launch.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RunError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout

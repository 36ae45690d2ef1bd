"""What the run of a storm learned, against the same run without faults and with as many updates.

At a constant learning rate one checkpoint says little: the accuracy of two that are three updates apart differs by
several standard errors. So each run is measured by its last checkpoints, and their spread counts as noise.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import RunError
from tests.faults.live_run import ROOT

__all__ = ["accuracies", "compared", "newest_version", "run_calmly"]

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
    return _versions(run)[-1]


def accuracies(run: Path) -> list[float]:
    """Return the share of held-out tasks that each checkpoint solves which the run still has."""
    return [_accuracy(run, version) for version in _versions(run)]


def compared(stormy: Sequence[float], calm: Sequence[float]) -> dict[str, Any]:
    """Return the shares of both runs' last checkpoints, and whether their means are alike.

    They are if they differ by no more than SIGMAS standard errors of the difference of two means. Checkpoints that are
    evaluated on the same TASKS vary no less than their spread, and no less than one share of TASKS.
    """
    error = math.sqrt(sum(_variance(shares) / len(shares) for shares in (stormy, calm)))
    apart = abs(statistics.mean(stormy) - statistics.mean(calm))
    found = {"stormy": list(stormy), "calm": list(calm), "apart": round(apart, 4), "error": round(error, 4)}
    return {**found, "alike": apart <= SIGMAS * error}


def _variance(shares: Sequence[float]) -> float:
    mean = statistics.mean(shares)
    return max(statistics.variance(shares), mean * (1 - mean) / TASKS, TASKS**-2)


def _versions(run: Path) -> list[int]:
    return sorted(int(path.name[1:]) for path in (run / "checkpoints").glob("v*"))


def _accuracy(run: Path, version: int) -> float:
    words = ("eval", str(run), "--version", str(version), f"eval.tasks={TASKS}", "--json")
    return float(json.loads(_launch(*words, seconds=EVALUATION_S))["accuracy"])


def _launch(*words: str, seconds: float) -> str:
    command = [sys.executable, "launch.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RunError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout

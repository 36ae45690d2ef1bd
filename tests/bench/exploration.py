"""Finished runs of one exploration preset, and what they found; a run that is finished is never run again.

<folder>/<name>/   the run folder of one cell of a table
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from buffers.records.query import query
from configs.errors import RunError

__all__ = ["PRESET", "figures", "finish"]

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "configs" / "minigrid_oni.yaml"
SETTINGS = [
    "environment.eval_episodes=0", "logging.view=quiet", "logging.tensorboard=false", "logging.report=false",
    "checkpoint.every=0",
]  # fmt: skip
RECENT = 100
"""Episodes of a success rate."""
SKIPPED = 10
"""First updates, which do not count in frames/s."""
DEADLINE_S = 3600.0
EPISODES = "SELECT metadata FROM trajectories ORDER BY finished_at"
UPDATES = "SELECT num_trained, time FROM versions WHERE num_trained > 0 ORDER BY version"


def finish(folder: Path, name: str, words: Sequence[str], preset: Path = PRESET) -> Path:
    """Return the folder of a finished run of a preset, running what is missing of it.

    Raises:
      RunError: it failed; says how.
    """
    run = folder / name
    if is_done(run):
        return run
    resume = ["resume=true"] if run.exists() else []
    command = [sys.executable, "launch.py", "run", str(preset), *SETTINGS, *words, f"runs_folder={folder}"]
    done = subprocess.run(
        [*command, f"name={name}", *resume], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S
    )
    if done.returncode or not is_done(run):
        raise RunError(f"{run} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return run


def is_done(run: Path) -> bool:
    """Whether a run went through all its updates."""
    summary = run / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["status"] == "finished"


def figures(run: Path, fragment_length: int = 32) -> dict[str, Any]:
    """Return what a run found.

    frames, frames_per_s       trained; the rate without the first updates
    success                    of the last 100 episodes that ended, None before there are as many
    labels, heldout_accuracy, coverage, reward_lag_s
                               the last that its reward learner said; None where it never did
    """
    rows = query(run, UPDATES).to_pylist()
    rate = sum(row["num_trained"] for row in rows[SKIPPED + 1 :]) / (rows[-1]["time"] - rows[SKIPPED]["time"])
    notes = (json.loads(row["metadata"]) for row in query(run, EPISODES).to_pylist())
    successes = [success for note in notes for _, _, success in note["episodes"]]
    said = last_metrics(run, "intrinsic/")
    return {
        "frames": sum(row["num_trained"] for row in rows) * fragment_length,
        "frames_per_s": round(rate * fragment_length),
        "episodes": len(successes),
        "success": statistics.fmean(successes[-RECENT:]) if len(successes) >= RECENT else None,
        "labels": said.get("labels"),
        "heldout_accuracy": said.get("heldout_accuracy"),
        "coverage": said.get("coverage"),
        "reward_lag_s": said.get("reward_lag_p50_s"),
    }


def last_metrics(run: Path, prefix: str) -> dict[str, float]:
    """Return the last value of every metric under a prefix, without it."""
    names = f"SELECT name, arg_max(value, update) AS value FROM metrics WHERE name LIKE '{prefix}%' GROUP BY name"
    return {row["name"].removeprefix(prefix): row["value"] for row in query(run, names).to_pylist()}

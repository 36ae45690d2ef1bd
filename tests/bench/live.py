"""A headrace run as a user starts it, measured from outside: the ledger says how many frames, the kernel how much CPU.

Nothing is imported into the run; a window opens when the warm-up after its first update is over.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from buffers.records.query import query
from configs.errors import RunError
from tests.bench.peers.window import tree_cpu_s

__all__ = ["measure_run"]

ROOT = Path(__file__).parents[2]
START_S, STOP_S, LOOK_S = 180.0, 90.0, 1.0
UPDATES = "SELECT version, num_trained, time FROM versions WHERE num_trained > 0 ORDER BY version"


def measure_run(settings: Mapping[str, Any], seconds: float, warm_up_s: float) -> dict[str, Any]:
    """Start a run, measure a window of it, stop it as Ctrl-C does.

    Args:
      settings: of `RunConfig`, with a `name`; its `environment.fragment_length` makes frames of fragments.

    Raises:
      RunError: it ended by itself, or no update came within the deadline.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"  # every JSON document is YAML
        file.write_text(json.dumps({**settings, "runs_folder": folder}))
        log = Path(folder) / "output.txt"
        command = [sys.executable, "launch.py", "run", str(file)]
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            return _window(process, log, Path(folder) / settings["name"], settings, seconds, warm_up_s)
        finally:
            _stop(process)


def _window(
    process: subprocess.Popen[bytes],
    log: Path,
    run: Path,
    settings: Mapping[str, Any],
    seconds: float,
    warm_up_s: float,
) -> dict[str, Any]:
    _wait_for_an_update(process, log, run)
    time.sleep(warm_up_s)
    before, began = tree_cpu_s(psutil.Process(process.pid)), time.time()
    time.sleep(seconds)
    after, ended = tree_cpu_s(psutil.Process(process.pid)), time.time()
    if process.poll() is not None:
        raise RunError(f"the run ended by itself: {log.read_text()[-2000:]}")
    rows = [row for row in query(run, UPDATES).to_pylist() if began <= row["time"] <= ended]
    if len(rows) < 2:
        raise RunError(f"{len(rows)} updates in {seconds:g} s; raise --seconds")
    fragments = sum(row["num_trained"] for row in rows[1:])
    rate = fragments * settings["environment"]["fragment_length"] / (rows[-1]["time"] - rows[0]["time"])
    used = {title: round(after.get(title, 0.0) - before.get(title, 0.0), 2) for title in {**before, **after}}
    cpu_s = sum(used.values())
    return {
        "frames_per_s": round(rate, 1),
        "cpu_s": round(cpu_s, 2),
        "frames_per_cpu_s": round(rate * (ended - began) / cpu_s, 1),
        "window_s": round(ended - began, 2),
        "cpu_s_of": {title: seconds for title, seconds in used.items() if seconds > 0.005 * cpu_s},
    }


def _wait_for_an_update(process: subprocess.Popen[bytes], log: Path, run: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ((run / "run.json").exists() and query(run, UPDATES).num_rows):
        if process.poll() is not None:
            raise RunError(f"the run ended before its first update: {log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            raise RunError(f"no update within {START_S:g} s: {log.read_text()[-2000:]}")
        time.sleep(LOOK_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)

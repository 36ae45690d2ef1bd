"""A headrace run as a user starts it, measured from outside: the ledger says how many frames, the kernel how much CPU.

Nothing is imported into the run; a window opens when the warm-up after its first update is over.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from buffers.records.query import query
from configs.errors import RunError
from tests.bench.peers.window import tree_cpu_s

__all__ = ["ROOT", "Live", "measure_run", "pools_of", "running"]

ROOT = Path(__file__).parents[2]
START_S, STOP_S, LOOK_S = 600.0, 90.0, 1.0
UPDATES = "SELECT version, num_trained, time FROM versions WHERE num_trained > 0 ORDER BY version"


@dataclass(frozen=True)
class Live:
    """A run under way."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    def check(self) -> None:
        """Raise RunError where it ended by itself."""
        if self.process.poll() is not None:
            raise RunError(f"the run ended by itself: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it as Ctrl-C does, and return once its books are closed."""
        _stop(self.process)

    def wait_for_an_update(self) -> None:
        """Return after the first update; RunError where none comes."""
        deadline = time.monotonic() + START_S
        while not ((self.folder / "run.json").exists() and query(self.folder, UPDATES).num_rows):
            self.check()
            if time.monotonic() > deadline:
                raise RunError(f"no update within {START_S:g} s: {self.log.read_text()[-2000:]}")
            time.sleep(LOOK_S)


@contextmanager
def running(settings: Mapping[str, Any], presets: Sequence[str] = (), **environment: str) -> Iterator[Live]:
    """Start a run, and stop it as Ctrl-C does when the block ends.

    Args:
      settings: of `RunConfig`, with a `name`, over those of `presets`.
      environment: variables of its process.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"  # every JSON document is YAML
        file.write_text(json.dumps({**settings, "runs_folder": folder}))
        log = Path(folder) / "output.txt"
        command = [sys.executable, "launch.py", "run", *presets, str(file)]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
        try:
            yield Live(process, Path(folder) / settings["name"], log)
        finally:
            _stop(process)


def measure_run(settings: Mapping[str, Any], seconds: float, warm_up_s: float) -> dict[str, Any]:
    """Start a run, measure a window of it, stop it as Ctrl-C does.

    Args:
      settings: of `RunConfig`, with a `name`; its `environment.fragment_length` makes frames of fragments.

    Raises:
      RunError: it ended by itself, or no update came within the deadline.
    """
    with running(settings) as live:
        return _window(live, settings["environment"]["fragment_length"], seconds, warm_up_s)


def _window(live: Live, steps: int, seconds: float, warm_up_s: float) -> dict[str, Any]:
    live.wait_for_an_update()
    process = psutil.Process(live.process.pid)
    names = {process.pid: "driver"} | pools_of(live.folder)
    time.sleep(warm_up_s)
    before, began = tree_cpu_s(process, names), time.time()
    time.sleep(seconds)
    after, ended = tree_cpu_s(process, names), time.time()
    live.check()
    rows = [row for row in query(live.folder, UPDATES).to_pylist() if began <= row["time"] <= ended]
    if len(rows) < 2:
        raise RunError(f"{len(rows)} updates in {seconds:g} s; raise --seconds")
    fragments = sum(row["num_trained"] for row in rows[1:])
    rate = fragments * steps / (rows[-1]["time"] - rows[0]["time"])
    used = {title: after.get(title, 0.0) - before.get(title, 0.0) for title in {**before, **after}}
    cpu_s = sum(used.values())
    return {
        "frames_per_s": round(rate, 1),
        "cpu_s": round(cpu_s, 2),
        "frames_per_cpu_s": round(rate * (ended - began) / cpu_s, 1),
        "window_s": round(ended - began, 2),
        "cpu_us_per_frame": {
            title: round(1e6 * used_s / rate / (ended - began), 1)
            for title, used_s in sorted(used.items())
            if used_s > 0.005 * cpu_s
        },
    }


def pools_of(run: Path) -> dict[int, str]:
    """Return process id -> pool, as the run itself says."""
    asked = [sys.executable, "launch.py", "status", str(run), "--json"]
    answer = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=True)
    pools = json.loads(answer.stdout)["pools"]
    return {pid: pool for pool, state in pools.items() for pid in state["pids"].values()}


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)

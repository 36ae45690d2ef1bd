"""What every peer is told, and how it is measured: frames and CPU seconds between the end of the warm-up and the end.

Peers are run as files, each by its own interpreter: they import nothing of headrace, and each other by bare name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import psutil

__all__ = ["BATCH", "LANES", "LEARNING_RATE", "STEPS", "Window", "parse", "tree_cpu_s"]

STEPS, LANES, BATCH = 32, 32, 1024
"""Of a fragment; of one worker; frames of one update, which are seen once."""
LEARNING_RATE = 3e-4


def parse(description: str | None, environments: Sequence[str], workers: int) -> argparse.Namespace:
    """Read a peer's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--env", choices=environments, required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the window")
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds before it, since the first frame")
    parser.add_argument("--workers", type=int, default=workers)
    return parser.parse_args()


def tree_cpu_s(root: psutil.Process, names: Mapping[int, str] | None = None) -> dict[str, float]:
    """Return seconds of CPU, user and system, that a process and its living descendants have used, by their titles.

    Args:
      names: process id -> what to call it instead.
    """
    used: dict[str, float] = defaultdict(float)
    for member in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            # Ray's actors change the part behind the dot with every call.
            title = member.cmdline()[0].rpartition("/")[2].partition(".")[0]
            used[(names or {}).get(member.pid, title)] += times.user + times.system
    return used


class Window:
    """Takes (clock, frames, CPU) at the first count after the warm-up and at the first after the end.

    window = Window("one_file_ppo", options)
    while not window.closed(frames): ...
    window.report()
    """

    def __init__(self, peer: str, options: argparse.Namespace) -> None:
        self._peer, self._env, self._workers = peer, options.env, options.workers
        self._warm_up_s, self._seconds = options.warm_up, options.seconds
        self._first: float | None = None
        self._marks: list[tuple[float, int, float]] = []

    def closed(self, frames: int) -> bool:
        """Note how many frames there were so far; return whether the window is over."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now if frames else None
            return False
        opening = self._first + self._warm_up_s if not self._marks else self._marks[0][0] + self._seconds
        if now >= opening:
            self._marks.append((now, frames, sum(tree_cpu_s(psutil.Process()).values())))
        return len(self._marks) == 2

    def report(self) -> None:
        """Print the line that the benchmark reads."""
        (began, before, cpu_before), (ended, after, cpu_after) = self._marks
        frames, seconds, cpu_s = after - before, ended - began, cpu_after - cpu_before
        line = {
            "peer": self._peer,
            "env": self._env,
            "workers": self._workers,
            "frames_per_s": round(frames / seconds, 1),
            "cpu_s": round(cpu_s, 2),
            "frames_per_cpu_s": round(frames / cpu_s, 1),
            "window_s": round(seconds, 2),
        }
        print(json.dumps(line), flush=True)

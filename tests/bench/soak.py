"""What grows in a run that goes on and on: memory, object store, ledger, file handles, threads; sampled from outside.

A run at full load (the quickstart's model, no warm start) for some minutes. Every few seconds the kernel says of each
process how much memory, how many files and how many threads it has; the run folder how large it is. A line is fitted
to each series after the warm-up; one `grows` where its slope is positive beyond three times its uncertainty, and what
it would add in a day is more than a tenth of what is there. Samples that follow each other are alike, so that the
uncertainty counts blocks of samples, not samples.

    python -m tests.bench.soak [--minutes 5] [--preset configs/quickstart.yaml]        prints one JSON line
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from buffers.records.metrics import read_metrics
from buffers.run_folder import run_key
from learners.models.weights import SHARED_FOLDER
from tests.bench.live import Live, pools_of, running

SAMPLE_S, WARM_UP_SHARE, BLOCKS, SIGMAS = 5.0, 0.3, 8, 3.0
NOTICEABLE = 0.1
"""Growth in a day, as a share of the level, below which a slope is not called growth."""
DAY_S = 86400.0
SETTINGS: Mapping[str, Any] = {
    "name": "soak", "updates": 10**9, "warm_start": {"updates": 0}, "eval": {"tasks": 0},
    "checkpoint": {"every": 50}, "retention": {"payload_updates": 100, "ledger_updates": 200},
    "buffer": {"max_failed_groups": 10**6}, "logging": {"view": "quiet", "tensorboard": False, "report": False},
}  # fmt: skip


class Slope(NamedTuple):
    """A line through a series: its level in the middle, and what it gains in an hour, with one standard error."""

    level: float
    per_hour: float
    error: float

    @property
    def grows(self) -> bool:
        """Whether growth is certain and would matter within a day."""
        return self.per_hour > SIGMAS * self.error and 24 * self.per_hour > NOTICEABLE * max(self.level, 1.0)


def slope(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """Return the line of least squares through block means, and the standard error of its slope.

    Source: the textbook formula, s^2 / sum((t - mean t)^2) with s^2 the residual variance over n - 2.
    """
    count = min(BLOCKS, len(values))
    blocks = [(part_t.mean(), part_v.mean()) for part_t, part_v in zip(
        np.array_split(np.asarray(times_s, float), count), np.array_split(np.asarray(values, float), count), strict=True
    )]  # fmt: skip
    t, v = (np.array(column) for column in zip(*blocks, strict=True))
    spread = float(((t - t.mean()) ** 2).sum())
    if count < 3 or spread == 0.0:
        return Slope(float(v.mean()), 0.0, math.inf)
    gain = float(((t - t.mean()) * (v - v.mean())).sum()) / spread
    residuals = v - v.mean() - gain * (t - t.mean())
    error = math.sqrt(float((residuals**2).sum()) / (count - 2) / spread)
    return Slope(float(v.mean()), 3600.0 * gain, 3600.0 * error)


def sample(live: Live, names: Mapping[int, str]) -> dict[str, float]:
    """Return `<process>/rss_mb`, `/files` and `/threads` of each process, and the megabytes of the run folder."""
    found: dict[str, float] = defaultdict(float)
    root = psutil.Process(live.process.pid)
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            name = names.get(process.pid) or process.name().partition(".")[0]
            found[f"{name}/rss_mb"] += process.memory_info().rss / 1e6
            found[f"{name}/files"] += process.num_fds()
            found[f"{name}/threads"] += process.num_threads()
    for part in ("ledger", "trajectories", "metrics", "checkpoints"):
        found[f"folder/{part}_mb"] = sum(_sizes(live.folder / part)) / 1e6
    found["shared_memory_mb"] = sum(_sizes(SHARED_FOLDER, f"{run_key(live.folder)}*")) / 1e6
    return found


def _sizes(folder: Path, pattern: str = "*") -> Iterator[int]:
    for path in folder.rglob(pattern):
        with contextlib.suppress(FileNotFoundError):  # it was merged, or retired, meanwhile
            if path.is_file():
                yield path.stat().st_size


def soak(minutes: float, preset: str) -> dict[str, Any]:
    """Run for some minutes; return the slope of every series."""
    times, series = list[float](), defaultdict[str, list[float]](list)
    with running(SETTINGS, [preset]) as live:
        live.wait_for_an_update()
        names = {live.process.pid: "driver"} | pools_of(live.folder)
        began = time.monotonic()
        while (now := time.monotonic()) < began + 60.0 * minutes:
            live.check()
            seen = sample(live, names)
            times.append(now - began)
            for name in {*series, *seen}:
                series[name] += [0.0] * (len(times) - 1 - len(series[name])) + [seen.get(name, 0.0)]
            time.sleep(SAMPLE_S)
        restarts = pools_of(live.folder) != {pid: name for pid, name in names.items() if name != "driver"}
        live.stop()
        rows = read_metrics(live.folder).to_pylist()
        updates = max(row["update"] for row in rows)
        used = [(row["time"], row["value"]) for row in rows if row["name"] == "object_store/used"]
    first = int(WARM_UP_SHARE * len(times))
    found = {name: slope(times[first:], values[first:]) for name, values in series.items()}
    if used:
        kept = used[int(WARM_UP_SHARE * len(used)) :]
        found["object_store/used"] = slope([when for when, _ in kept], [share for _, share in kept])
    return {
        "minutes": minutes, "samples": len(times), "updates": updates, "a_member_was_replaced": restarts,
        "grows": sorted(name for name, line in found.items() if line.grows),
        "series": {name: [round(value, 4) for value in line] for name, line in sorted(found.items())},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--preset", default="configs/quickstart.yaml")
    options = parser.parse_args()
    print(json.dumps(soak(options.minutes, options.preset)))


if __name__ == "__main__":
    main()

"""What it costs to be safe: samples/s with ledger, payload files, fsync, checkpoints and checksums, against without.

    python -m tests.bench.safety_cost [--updates 60] [--pairs 3]

The quickstart from random weights, on Ray; runs with and without alternate, so that other load hits both alike. The
ratio is of the medians. "Without" stores nothing at all (see `unsafe.py`), so its runs cannot be audited or resumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import launch
from configs.load import load_config
from tests.bench.end_to_end import PRESET, SKIPPED, settings

CHECKPOINT_EVERY = 20
SAFE = [f"checkpoint.every={CHECKPOINT_EVERY}"]
UNSAFE = [
    "checkpoint.every=0", "buffer.fsync=false", "buffer.sampler.target='tests.bench.unsafe:sampler'",
    "learner.loss.target='tests.bench.unsafe:loss'", "engine=tests.bench.unsafe:engine",
]  # fmt: skip


def samples_per_s(extra: list[str], updates: int) -> float:
    """Run once; return trained samples/s between the first counted and the last update."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word for word in settings(Path(folder), updates) if not word.startswith("checkpoint")]
        assert launch.main(["run", str(PRESET), *words, *extra]) == 0
        files = sorted((Path(folder) / "bench" / "metrics").glob("*.parquet"))
        rows = pq.read_table(files)
        times = rows.filter(pc.equal(rows["name"], "time/update")).sort_by("update")["time"].to_pylist()
    return load_config([PRESET], []).batch.samples * (len(times) - SKIPPED - 1) / (times[-1] - times[SKIPPED])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"safe": [], "unsafe": []}
    for _ in range(options.pairs):
        found["safe"].append(samples_per_s(SAFE, options.updates))
        found["unsafe"].append(samples_per_s(UNSAFE, options.updates))
    median = {name: statistics.median(rates) for name, rates in found.items()}
    runs = {f"{name}_samples_per_s": [round(rate) for rate in rates] for name, rates in found.items()}
    print(json.dumps({**runs, "ratio": round(median["safe"] / median["unsafe"], 3)}))


if __name__ == "__main__":
    main()

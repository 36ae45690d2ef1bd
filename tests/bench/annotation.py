"""What labels cost and what they buy, on MiniGrid-DoorKey-8x8 with the scripted annotator.

    python -m tests.bench.annotation speed  [--rounds 3]     frames/s with labels and reward training, and without
    python -m tests.bench.annotation budget [--seeds 0,1,2]  success by the number of labels that may be asked for
    python -m tests.bench.annotation delay                   frames/s and label lag by the seconds an answer takes

Each prints one JSON line; --updates and --folder are common to all. Finished runs are read, not run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.exploration import figures, finish

VARIANTS = {
    "off": ["intrinsic=none"],
    "scored": ["intrinsic=script"],
    "on": ["intrinsic=classification"],
}
"""Without intrinsic rewards; scored by rules, nobody asked and nothing trained; labelled, trained and scored."""
BUDGETS = (1, 2, 4, 8, 16, 32)
DELAYS_S = (0.0, 0.1, 1.0, 5.0)

Measure = Callable[[str, list[str]], dict[str, Any]]


def speed(measure: Measure, options: argparse.Namespace) -> dict[str, Any]:
    """Return medians of frames/s over rounds, the variants in turn within each, and their shares of `off`."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(options.rounds):
        for name, words in VARIANTS.items():
            found[name].append(measure(f"speed-{name}-{turn}", [*words, f"seed={turn}"])["frames_per_s"])
    median = {name: statistics.median(rates) for name, rates in found.items()}
    kept = {name: round(rate / median["off"], 3) for name, rate in median.items()}
    return {"frames_per_s": median, "share_kept": kept, "rounds": options.rounds}


def budget(measure: Measure, options: argparse.Namespace) -> dict[str, Any]:
    """Return success and labels used by budget, one number per seed."""
    found: dict[str, Any] = {}
    for labels in BUDGETS:
        words = ["intrinsic=classification", f"exploration.annotation.budget={labels}"]
        runs = [measure(f"budget-{labels}-seed{seed}", [*words, f"seed={seed}"]) for seed in seeds(options)]
        found[str(labels)] = {name: [run[name] for run in runs] for name in ("success", "labels", "heldout_accuracy")}
    return {"by_budget": found}


def delay(measure: Measure, options: argparse.Namespace) -> dict[str, Any]:
    """Return frames/s, seconds from a label to its first use, and success by the annotator's delay, by seed."""
    found: dict[str, Any] = {}
    for seconds in DELAYS_S:
        words = ["intrinsic=classification", f"exploration.annotation.annotator.delay_s={seconds}"]
        runs = [measure(f"delay-{seconds:g}-seed{seed}", [*words, f"seed={seed}"]) for seed in seeds(options)]
        names = ("frames_per_s", "reward_lag_s", "labels", "coverage", "success")
        found[f"{seconds:g}"] = {name: [run[name] for run in runs] for name in names}
    return {"by_delay_s": found}


def seeds(options: argparse.Namespace) -> Iterator[int]:
    return map(int, options.seeds.split(","))


PARTS = {"speed": speed, "budget": budget, "delay": delay}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--updates", type=int, default=200, help="of 1,024 frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("runs/annotation"))
    options = parser.parse_args()

    def measure(name: str, words: list[str]) -> dict[str, Any]:
        settings = [*words, f"updates={options.updates}"]
        return figures(finish(options.folder.resolve(), f"{name}-updates{options.updates}", settings))

    print(json.dumps({"part": options.part, "updates": options.updates, **PARTS[options.part](measure, options)}))


if __name__ == "__main__":
    main()

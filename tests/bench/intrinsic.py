"""Which intrinsic reward solves MiniGrid-DoorKey-8x8 within a budget of frames: the table of rewards x seeds.

    python -m tests.bench.intrinsic [--seeds 0,1,2] [--updates 200] [--rewards none,script] [--folder runs/intrinsic]

Prints one JSON line per run and, at the end, the table. The same command again goes on where it stopped:
finished runs are read, not run. `none` is the environment's own reward; `script` pays the rules without
labels or learning, the most that learned rewards with the same rules can reach.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.exploration import figures, finish

REWARDS = ("none", "script", "counts", "rnd", "similarity", "retrieval", "classification", "ranking")
COLUMNS = ("success", "labels", "heldout_accuracy", "frames_per_s")


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return one row per reward: mean over its seeds (lowest to highest success)."""
    rows = [("reward", "seeds", *COLUMNS)]
    for reward in dict.fromkeys(line["reward"] for line in lines):
        of = [line for line in lines if line["reward"] == reward]
        rows.append((reward, str(len(of)), *(cell([line[name] for line in of]) for name in COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def cell(values: Sequence[float | None]) -> str:
    """Return mean and range of the values that are known; "-" where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.fmean(known):.3g} ({min(known):.3g} to {max(known):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--updates", type=int, default=200, help="of 1,024 frames")
    parser.add_argument("--rewards", default=",".join(REWARDS))
    parser.add_argument("--folder", type=Path, default=Path("runs/intrinsic"))
    options = parser.parse_args()
    lines = []
    for reward in options.rewards.split(","):
        for seed in map(int, options.seeds.split(",")):
            words = [f"intrinsic={reward}", f"seed={seed}", f"updates={options.updates}"]
            run = finish(options.folder.resolve(), f"{reward}-updates{options.updates}-seed{seed}", words)
            lines.append({"reward": reward, "seed": seed, **figures(run)})
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()

"""Frames per second of decision agents, headrace beside its peers, in turns: ours, peer, ours, peer, ...

Same environments, observation vectors, networks, fragments of 32 steps, batches of 1,024 frames seen once
(`peers/`, `frames_settings.py`). Frames count from the end of a warm-up; CPU is that of the whole process tree.
Ray, the ledger and all files are on our side of the figures. Peers run in interpreters of their own:

    python -m tests.bench.frames --env minigrid [--seconds 60] [--rounds 3] [--peers one_file_ppo,sample_factory_appo]
        [--sample-factory sf/bin/python] [--rllib rllib/bin/python]

A peer without an interpreter is left out, and the line says so. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.frames_settings import BACKENDS, settings
from tests.bench.live import measure_run

PEERS = Path(__file__).parent / "peers"
OURS = {
    "headrace_1_worker": ("gymnasium", 1),
    "headrace_2_workers": ("gymnasium", 2),
    "headrace_envpool": ("envpool", 1),
}
"""Name -> backend and rollout workers; those whose backend has the environment are measured."""
START_S = 240.0
"""A peer's start and end, beside its window."""
Line = Mapping[str, Any]
Measure = Callable[[], Line]


def measure_peer(peer: str, interpreter: str, env: str, seconds: float, warm_up_s: float) -> Line:
    """Run a peer and return the line it prints."""
    words = ["--env", env, "--seconds", str(seconds), "--warm-up", str(warm_up_s)]
    done = subprocess.run(
        [interpreter, str(PEERS / f"{peer}.py"), *words],
        capture_output=True, text=True, timeout=START_S + seconds + warm_up_s,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{peer}: {done.stderr[-2000:]}")
    line: Line = json.loads(next(text for text in done.stdout.splitlines() if text.startswith('{"peer"')))
    return line


def subjects(options: argparse.Namespace) -> tuple[dict[str, Measure], list[str]]:
    """Return what is measured, ours and peers in turn, and the peers that are left out."""
    window = (options.seconds, options.warm_up)
    interpreters = {
        "one_file_ppo": sys.executable,
        "sample_factory_appo": options.sample_factory,
        "rllib_appo": options.rllib,
    }
    wanted = [peer for peer in interpreters if options.peers is None or peer in options.peers.split(",")]
    peers: dict[str, Measure] = {
        peer: partial(measure_peer, peer, interpreters[peer], options.env, *window)
        for peer in wanted
        if interpreters[peer]
    }
    ours: dict[str, Measure] = {
        name: partial(measure_run, settings(options.env, backend, workers), *window)
        for name, (backend, workers) in OURS.items()
        if options.env in BACKENDS[backend] and (options.ours is None or name in options.ours.split(","))
    }
    return in_turns(ours, peers), [peer for peer in wanted if not interpreters[peer]]


def in_turns(ours: Mapping[str, Measure], peers: Mapping[str, Measure]) -> dict[str, Measure]:
    """Return both, one after the other, the longer one's rest at the end."""
    columns = [list(ours.items()), list(peers.items())]
    longest = max(map(len, columns))
    return dict(column[row] for row in range(longest) for column in columns if row < len(column))


def summary(rounds: Sequence[Mapping[str, Line]]) -> dict[str, Any]:
    """Return the median of every subject, and of ours over each peer's."""
    keys = ("frames_per_s", "frames_per_cpu_s")
    median = {name: {k: statistics.median(r[name][k] for r in rounds) for k in keys} for name in rounds[0]}
    ours, peers = ([name for name in median if name.startswith("headrace") is mine] for mine in (True, False))
    ratios = {
        f"{name} / {peer}": {k: round(median[name][k] / median[peer][k], 2) for k in keys}
        for name in ours
        for peer in peers
    }
    return {"median": median, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=sorted(BACKENDS["gymnasium"]), required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two measurements")
    parser.add_argument("--peers", help="names, with commas; all by default")
    parser.add_argument("--ours", help=f"of {', '.join(OURS)}; all by default")
    parser.add_argument("--sample-factory", metavar="PYTHON")
    parser.add_argument("--rllib", metavar="PYTHON")
    options = parser.parse_args()
    measures, left_out = subjects(options)
    rounds: list[dict[str, Line]] = []
    for _ in range(options.rounds):
        rounds.append({})
        for name, measure in measures.items():
            time.sleep(options.pause)
            rounds[-1][name] = measure()
            print(json.dumps({name: rounds[-1][name]}), file=sys.stderr, flush=True)
    found = {
        "env": options.env,
        **summary(rounds),
        "rounds": rounds,
        "left_out": left_out,
        "machine": platform.machine(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""The real control code on a virtual clock under seeded faults: safety at every step, then progress.

Real: supervisor, session, learner driver, host and rank, publisher, buffer host, intake, ledger and segments,
reward graph and server, rollout worker and programs. Stand-ins: engine, learner's maths (see `sim_parts`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sim_run import prove
from sim_scenario import Scenario

SIMULATE = Path(__file__).with_name("simulate.py")
SEEDS, TOGETHER = 200, 20


@pytest.mark.parametrize("first", range(0, SEEDS, TOGETHER))
def test_hundreds_of_seeds_are_safe_and_make_progress(first: int) -> None:
    faults: Counter[str] = Counter()
    for seed in range(first, first + TOGETHER):
        faults.update(prove(seed).faults)
    assert faults["kill"] > TOGETHER and len(faults) > 5, f"this proves nothing: {faults}"


def test_seeds_stand_for_all_kinds_of_runs() -> None:
    drawn = [Scenario(seed) for seed in range(SEEDS)]
    assert {s.sampler["target"] for s in drawn} == {"fifo", "in_order", "prioritised", "replay"}
    assert {s.max_staleness for s in drawn} == {0, 1, 2, 3, 4} and {s.policy for s in drawn} == {"wait", "drop"}
    assert sum(s.exact for s in drawn) > SEEDS / 8, "too few runs that must equal the fault-free one"


def test_the_same_seed_gives_the_same_trace_under_two_hash_seeds() -> None:
    lines = [simulate_apart(3, 5, hash_seed) for hash_seed in (1, 2)]
    assert lines[0] == lines[1]
    assert len({line.split()[1] for line in lines[0]}) == 3, "other seeds must give other traces"


def simulate_apart(first: int, last: int, hash_seed: int) -> list[str]:
    """Run seeds in a process of their own; return its lines."""
    root = str(SIMULATE.parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": root}
    command = [sys.executable, str(SIMULATE), str(first), str(last)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()

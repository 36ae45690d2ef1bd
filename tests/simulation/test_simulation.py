"""The real control code on a virtual clock under seeded faults: safety at every step, then progress.

Real: supervisor, session, learner driver, host and rank, publisher, buffer host, intake, ledger and segments,
reward graph and server, rollout worker and programs. Stand-ins: engine, learner's maths (see `sim_parts`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim_run import prove
from sim_scenario import Scenario

SIMULATE = Path(__file__).with_name("simulate.py")
SEEDS, PROCESSES = 240, 2
DEADLINE_S = 280

pytestmark = pytest.mark.timeout(DEADLINE_S + 20)


def simulate(first: int, last: int, hash_seed: int = 0) -> subprocess.Popen[str]:
    """Start a process that runs seeds and prints one line each."""
    root = str(SIMULATE.parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": root}
    command = [sys.executable, str(SIMULATE), str(first), str(last)]
    return subprocess.Popen(
        command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Return the lines of the seeds; a failure shows its story, its seed and how to run it alone."""
    try:
        output, _ = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"seeds took more than {DEADLINE_S} s; done: {process.communicate()[0]}")
    assert process.returncode == 0, output
    return [line for line in output.splitlines() if line.startswith("seed=")]


def test_hundreds_of_seeds_are_safe_and_make_progress() -> None:
    share = SEEDS // PROCESSES
    processes = [simulate(first, first + share - 1) for first in range(0, SEEDS, share)]
    lines = [line for process in processes for line in finish(process)]
    assert len(lines) == SEEDS
    for fault in ("kill", "stall", "power cut", "lost driver", "lost service", "full disk", "scale", "pause"):
        assert sum(fault in line for line in lines) > SEEDS / 50, f"{fault} hardly ever happened"


def test_the_same_seed_gives_the_same_trace_under_two_hash_seeds() -> None:
    one, other = simulate(3, 5, hash_seed=1), simulate(3, 5, hash_seed=2)
    lines = finish(one)
    assert lines == finish(other) and len({line.split()[1] for line in lines}) == 3


def test_seeds_stand_for_all_kinds_of_runs() -> None:
    drawn = [Scenario(seed) for seed in range(SEEDS)]
    assert {s.sampler["target"] for s in drawn} == {"fifo", "in_order", "prioritised", "replay"}
    assert {s.max_staleness for s in drawn} == {0, 1, 2, 3, 4} and {s.policy for s in drawn} == {"wait", "drop"}
    assert sum(s.exact for s in drawn) > SEEDS / 8, "too few runs that must equal the fault-free one"


FOUND = {}


@pytest.mark.parametrize("seed", FOUND, ids=lambda seed: f"{seed}")
def test_what_the_simulation_found_stays_mended(seed: int) -> None:
    prove(seed)

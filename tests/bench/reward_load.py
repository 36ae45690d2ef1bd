"""What slow and failing rewards cost: 64 rollouts at a time against three pools, all of it real but the engine.

    calm     no faults: how busy each pool is
    faults   10 % of calls never answer, 5 % raise, one replica of the largest pool hangs for good
    bare     the same faults without retries and without a breaker
    scaled   no faults, the largest pool too small at first; then `launch.py scale` gives it its replicas

Counted are samples with valid scores of all components, per second of a window; every generated sample must have a
score of each component in the ledger, valid or not.

    python -m tests.bench.reward_load [--seconds 40]        prints one JSON line
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from buffers.records.audit import audit
from buffers.records.query import query
from tests.bench.live import ROOT, Live, running

SLOTS, MEAN_TOKENS, TICK_S = 64, 40, 0.021
"""76 samples a second, less what a step takes beside its tick."""
POOLS = {"rules": (0.05, 1, 5), "steps": (0.1, 2, 5), "judge": (0.2, 10, 2)}
"""Name -> (latency in seconds, replicas, concurrency), beside the preset's own rule; each is busy 76 % of the time
at 76 samples a second. Faults cost time: with 10 % time-outs at 1.5 times the latency and 5 % errors a valid score
takes 1 / 0.85 times its latency, and of ten judges nine are left, so that beyond 0.765 they cannot keep up."""
LARGEST, TOO_FEW = "judge", 4
FAULTS = {"timeout_share": 0.1, "error_share": 0.05}
BARE = {"retries": 0, "breaker_failures": 10**9}
PRESET = "configs/smoke.yaml"
IDLE = {"target": "tests.bench.simulated:IdleLoss", "seconds": 0.1}
WARM_UP_S, SETTLE_S = 10.0, 15.0


def settings(*, faults: bool, bare: bool, few: bool, folder: str) -> dict[str, Any]:
    """Return the keys that differ from the preset."""
    components = {}
    for name, (latency_s, replicas, concurrency) in POOLS.items():
        hung = str(Path(folder) / "hung") if faults and name == LARGEST else ""
        target = {"target": "tests.bench.faulty_reward:FaultyReward", "latency_s": latency_s, "hung": hung}
        components[name] = {
            "component": target | (FAULTS if faults else {}),
            "replicas": TOO_FEW if few and name == LARGEST else replicas,
            "concurrency": concurrency, "batch_size": 1, "deadline_s": 1.5 * latency_s, "weight": 1.0,
            **(BARE if bare else {}),
        }  # fmt: skip
    return {
        "name": "load", "updates": 10**9, "max_staleness": 8, "engine": "tests.bench.simulated:engine",
        "rollout": {"slots": SLOTS, "context_length": 420, "max_completion_length": 400, "message_samples": 8},
        "rewards": {"components": components},
        "batch": {"prompts_per_update": 16, "num_generations": 4},
        "learner": {"micro_batch_tokens": 200_000, "loss": IDLE},
        "model": {"architecture": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                                   "max_position_embeddings": 512, "head_dim": 8}},
        "warm_start": {"updates": 0}, "eval": {"tasks": 0}, "checkpoint": {"every": 0},
        "buffer": {"max_failed_groups": 10**6},
        "logging": {"view": "quiet", "tensorboard": False, "report": False},
    }  # fmt: skip


def measure(seconds: float, *, faults: bool = False, bare: bool = False, few: bool = False) -> dict[str, Any]:
    """Run once; return rates and what became of the scores."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings(faults=faults, bare=bare, few=few, folder=folder)
        environment = {"BENCH_TICK_S": str(TICK_S), "BENCH_MEAN_TOKENS": str(MEAN_TOKENS), "PYTHONPATH": str(ROOT)}
        with running(chosen, [PRESET], **environment) as live:
            live.wait_for_an_update()
            time.sleep(WARM_UP_S)
            began = time.time()
            time.sleep(seconds)
            windows = {"samples_per_s": (began, time.time())}
            if few:
                windows["samples_per_s_scaled"] = _scale_up(live, seconds)
            live.check()
            live.stop()
            rates = {name: round(_valid(live.folder, *window), 1) for name, window in windows.items()}
            return rates | {"busy": _busy(live.folder, *windows["samples_per_s"]), **_books(live.folder)}


def _scale_up(live: Live, seconds: float) -> tuple[float, float]:
    words = ["scale", str(live.folder), f"reward.{LARGEST}={POOLS[LARGEST][1]}"]
    subprocess.run([sys.executable, "launch.py", *words], cwd=ROOT, check=True, capture_output=True, timeout=60)
    time.sleep(SETTLE_S)
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


def _valid(run: Path, began: float, ended: float) -> float:
    """Return samples per second whose last component answered within the window, all of them with a valid score."""
    rows = query(
        run,
        f"""
        SELECT count(*) AS n FROM (
          SELECT trajectory_id, max(time) AS time, bool_and(status = 'ok') AS valid FROM scores GROUP BY trajectory_id
        ) WHERE valid AND time BETWEEN {began} AND {ended}
        """,
    )
    return float(rows["n"][0].as_py()) / (ended - began)


def _busy(run: Path, began: float, ended: float) -> dict[str, float]:
    """Return the share of its slots that each pool used for calls that answered."""
    rows = query(
        run,
        f"SELECT component, sum(latency_s) AS s FROM scores WHERE time BETWEEN {began} AND {ended} GROUP BY component",
    ).to_pylist()
    used = {row["component"]: row["s"] for row in rows}
    room = {name: replicas * concurrency * (ended - began) for name, (_, replicas, concurrency) in POOLS.items()}
    return {name: round(used[name] / room[name], 2) for name in POOLS}


def _books(run: Path) -> dict[str, Any]:
    states = query(run, "SELECT status, count(*) AS n FROM scores GROUP BY status ORDER BY status").to_pylist()
    missing = query(
        run,
        f"""
        SELECT count(*) AS n FROM (SELECT id FROM events WHERE event = 'scored' EXCEPT
          SELECT trajectory_id FROM scores GROUP BY trajectory_id HAVING count(DISTINCT component) = {len(POOLS) + 1})
        """,
    )["n"][0].as_py()
    found = audit(run)
    return {"scores": {r["status"]: r["n"] for r in states}, "without_a_score": missing, "balanced": found.balanced}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    seconds = parser.parse_args().seconds
    found = {
        "calm": measure(seconds),
        "faults": measure(seconds, faults=True),
        "bare": measure(seconds, faults=True, bare=True),
        "scaled": measure(seconds, few=True),
    }
    kept = {
        name: round(found[name]["samples_per_s"] / found["calm"]["samples_per_s"], 3) for name in ("faults", "bare")
    }
    print(json.dumps({"kept": kept, **found}))


if __name__ == "__main__":
    main()

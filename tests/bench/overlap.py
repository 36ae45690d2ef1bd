"""How well generation and learning overlap when completions have heavy-tailed lengths.

Real buffer, workers, driver, publisher and Ray; a simulated engine and loss with known costs (see
`simulated.py`): lognormal lengths, slots = batch / 4, generation and learning about balanced. Reported is

    wall time / max(generation of the trained samples, learning)

where generation is the trained tokens at full slots, and learning the time inside updates. The first
updates, in which nothing can overlap yet, do not count. With `--grid`: every policy at several
staleness bounds, the share of samples dropped for their age, and the mean tokens of those and of the trained.

    python -m tests.bench.overlap [--updates 60] [--grid]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import launch
from buffers.records.query import query
from tests.bench.simulated import TICK_S

PRESET = Path(launch.__file__).parent / "configs" / "smoke.yaml"
SLOTS, PROMPTS, GENERATIONS = 64, 64, 4
LEARNING_S = 0.5
SKIPPED = 5
POLICIES = {"wait, fifo": ("wait", "fifo"), "wait, in order": ("wait", "in_order"), "drop, fifo": ("drop", "fifo")}
MODEL = ("hidden_size=16", "intermediate_size=16", "num_hidden_layers=1", "max_position_embeddings=512", "head_dim=8")


def words(folder: str, updates: int, staleness: int, policy: tuple[str, str]) -> list[str]:
    return [
        "run", str(PRESET), "name=bench", f"runs_folder={folder}", f"updates={updates}", f"max_staleness={staleness}",
        "engine=tests.bench.simulated:engine", f"rollout.slots={SLOTS}", "rollout.context_length=420",
        "rollout.max_completion_length=400", f"batch.prompts_per_update={PROMPTS}",
        f"batch.num_generations={GENERATIONS}", "learner.micro_batch_tokens=200000",
        f"learner.loss={{target: 'tests.bench.simulated:IdleLoss', seconds: {LEARNING_S}}}",
        f"buffer.staleness_policy={policy[0]}", f"buffer.sampler.target={policy[1]}",
        *(f"model.architecture.{field}" for field in MODEL),
        "warm_start.updates=0", "eval.tasks=0", "checkpoint.every=0", "logging.report=false", "logging.view=quiet",
        "logging.tensorboard=false",
    ]  # fmt: skip


def measure(updates: int, staleness: int, policy: tuple[str, str]) -> dict[str, Any]:
    """Run once; return the ratio and what it is made of."""
    with tempfile.TemporaryDirectory() as folder:
        assert launch.main(words(folder, updates, staleness, policy)) == 0
        run = Path(folder) / "bench"
        (span,) = query(
            run,
            f"""
            SELECT max(time) - min(time) AS wall, count(*) - 1 AS updates FROM versions WHERE version >= {SKIPPED}
        """,
        ).to_pylist()
        (work,) = query(
            run,
            f"""
            SELECT sum(t.num_sampled) AS tokens, avg(t.num_sampled) AS length, count(*) AS samples
            FROM events e JOIN trajectories t ON t.id = e.id WHERE e.event = 'trained' AND e.version >= {SKIPPED}
        """,
        ).to_pylist()
        (stale,) = query(
            run,
            """
            SELECT count(*) AS samples, avg(t.num_sampled) AS length
            FROM events e JOIN trajectories t ON t.id = e.id WHERE e.event = 'dropped' AND e.reason = 'stale'
        """,
        ).to_pylist()
        (busy,) = query(
            run,
            f"""
            SELECT sum(value) AS seconds FROM metrics WHERE name = 'time/update' AND "update" > {SKIPPED}
        """,
        ).to_pylist()
        observed = json.loads((run / "summary.json").read_text())["staleness"]
    generation = float(work["tokens"]) * TICK_S / SLOTS
    learning = busy["seconds"]
    dropped = stale["samples"] / (stale["samples"] + work["samples"])
    return {
        "updates": span["updates"],
        "wall_over_max": round(span["wall"] / max(generation, learning), 3),
        "generation_to_learning": round(generation / learning, 2),
        "mean_staleness": observed["mean"],
        "dropped_share": round(dropped, 3),
        "mean_tokens_dropped": round(stale["length"], 1) if stale["samples"] else None,
        "mean_tokens_trained": round(work["length"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--grid", action="store_true")
    options = parser.parse_args()
    if not options.grid:
        print(json.dumps({"wait, fifo, staleness 4": measure(options.updates, 4, POLICIES["wait, fifo"])}))
        return
    for name, policy in POLICIES.items():
        for staleness in (0, 1, 2, 4, 8):
            print(json.dumps({"policy": name, "staleness": staleness} | measure(options.updates, staleness, policy)))


if __name__ == "__main__":
    main()

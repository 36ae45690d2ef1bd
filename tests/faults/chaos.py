"""A seeded storm over a real run on Ray: `python -m tests.faults.chaos --minutes 30 --seed 0 --folder FOLDER`.

It kills, stops (SIGSTOP), slows, cuts off and fills the disk of every kind of process of a run, side by side, at random
times and at chosen states, see `chaos_plan`; whatever ends is resumed, see `chaos_storm`. A fault counts only when its
effect was seen. Whenever the run has ended, audit and witness look at its files. At last the run must get over
everything, it is stopped, its files are looked at once more, and what it learned is compared with a run without faults
and with as many updates, by the last checkpoints of both. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import RunError
from tests.faults.chaos_calm import accuracies, compared, newest_version, run_calmly
from tests.faults.chaos_plan import Card, severe
from tests.faults.chaos_run import StormyRun
from tests.faults.chaos_storm import STATES, Storm, check

__all__ = ["SETTINGS", "main", "storm"]

SETTINGS = (
    "updates=1000000", "logging.view=plain", "logging.report=false", "logging.tensorboard=false",
    "checkpoint.every=10", "checkpoint.keep_last=8", "buffer.segment_bytes=300000",
    "cluster.heartbeat_s=0.5", "cluster.heartbeat_deadline_s=10", "cluster.call_deadline_s=20",
    "cluster.restart_refill_s=5", "learner.update_deadline_s=60", "publish.deadline_s=20",
    "rollout.workers=2", "rollout.max_restarts=1000", "intrinsic=classification",
)  # fmt: skip
"""Deadlines that a storm can reach, a restart budget that comes back as fast as it strikes, files that begin often."""
LANGUAGE = (
    "configs/quickstart.yaml", "learner.schedule=constant", "learner.learning_rate=3e-4", "eval.tasks=0",
    "rewards.components.correct.replicas=2", "rewards.components.correct.max_restarts=1000",
    "exploration.scored_at=actor", "exploration.annotation.annotator.target=scripted",
    "exploration.annotation.annotator.default=0",
    "exploration.annotation.annotator.rules=[{match: '^[0-9]{3}$', value: 1}]",
)  # fmt: skip
DECISION = (
    "configs/minigrid_oni.yaml", "environment.eval_episodes=0", "rollout.inference.actors=2",
    "rollout.inference.max_restarts=1000",
)  # fmt: skip
PRESETS = {"language": LANGUAGE, "decision": DECISION}
"""All kinds of process that there are, but evaluators and served models."""


def storm(
    words: Sequence[str],
    folder: Path,
    seconds: float,
    seed: int,
    least: int = 0,
    falls: Sequence[tuple[float, Card]] | None = None,
) -> dict[str, Any]:
    """Run, disturb, stop; return what happened.

    Args:
      falls: as for `Storm`; None plans them.
      least: confirmed faults of each kind of process and in each state.

    Raises:
      RunError: as `Storm.rage`, or it did not end well.
    """
    run = StormyRun(folder, words)
    try:
        run.checkpointed()
        rng = random.Random(seed)
        raging = Storm(run, seconds, rng, severe(seconds, rng) if falls is None else falls)
        raging.rage()
        code = run.stop()
    finally:
        run.bury()
    check(run.path, over=True)
    return {"exit_code": code, **figures(raging, run, least), "table": raging.record.table()}


def figures(raging: Storm, run: StormyRun, least: int) -> dict[str, Any]:
    """Return counts of confirmed faults, how the run ended each time, and what was dealt too rarely."""
    record = raging.record
    return {
        "faults": len(record.seen),
        "unconfirmed": dict(Counter(f"{blow.fault} {blow.victim}" for blow in record.blows if not blow.effect)),
        "by_fault": dict(Counter(blow.fault for blow in record.seen)),
        "by_victim": dict(Counter(blow.victim for blow in record.seen)),
        "by_state": dict(Counter(blow.state for blow in record.seen)),
        "too_few": record.missing(raging.names, STATES, least),
        "ends": run.ends,
        "version": newest_version(run.path),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 1 where a promise was broken, or too little happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the runs; a temporary one otherwise")
    parser.add_argument("--preset", choices=PRESETS, default="language")
    parser.add_argument("--least", type=int, default=0, help="confirmed faults of each kind of process and state")
    parser.add_argument("--no-calm", action="store_true", help="do not run without faults afterwards")
    parser.add_argument("settings", nargs="*", help="key=value")
    options = parser.parse_intermixed_args(words)
    settings = [*PRESETS[options.preset], *SETTINGS, *options.settings]
    about = {"bench": "chaos", "preset": options.preset, "seed": options.seed, "minutes": options.minutes}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        try:
            found = storm(settings, folder, 60.0 * options.minutes, options.seed, options.least)
            if options.preset == "language" and not options.no_calm:
                calm = run_calmly(folder, settings, newest_version(folder / "stormy"))
                found["accuracy"] = compared(accuracies(folder / "stormy"), accuracies(calm))
        except RunError as error:
            print(json.dumps({**about, "failed": str(error)}))
            return 1
    print(found.pop("table"))
    print(json.dumps({**about, **found}))
    return int(bool(found["exit_code"] or found["too_few"] or not found.get("accuracy", {}).get("alike", True)))


if __name__ == "__main__":
    raise SystemExit(main())

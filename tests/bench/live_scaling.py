"""Throughput of a run whose rollout pool grows from 1 to 8 and shrinks back, while one of its two nodes is lost.

Rollouts wait for up to a second before they begin, as those of a remote simulator do, so that workers cost time and not
processors: trajectories/s should follow their number until the processors of this machine are full.

    1 -> 2 -> 4 -> 8 -> 8, the second node lost in the middle of the window -> 4 -> 1

    sizes      of each window: workers, trajectories/s that came from them, seconds
    lost       workers that the lost node took along; slots that were done again because of it
    recovery_s from the loss until the pool had eight members again
    audit      totals of the books, which must balance

    python -m tests.bench.live_scaling [--seconds 20]        prints one JSON line
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from buffers.records.audit import audit
from tests.faults.live_run import LiveRun
from tests.faults.two_nodes import Nodes, nodes

WORDS = (
    "updates=1000000", "max_staleness=8", "batch.prompts_per_update=16", "rollout.max_delay_s=1.0",
    "rewards.components.correct.component={target: length_penalty, target_tokens: 2}",
)  # fmt: skip
STEPS = (1, 2, 4, 8)
GENERATED = "SELECT count(*) AS n FROM events WHERE event = 'generated' AND time BETWEEN {} AND {}"


def window(run: LiveRun, size: int, seconds: float) -> dict[str, float]:
    """Return what came in so many seconds."""
    began = time.time()
    time.sleep(seconds)
    ended = time.time()
    came = run.sql(GENERATED.format(began, ended))[0]["n"]
    return {"workers": size, "trajectories_per_s": round(came / (ended - began), 1), "seconds": round(ended - began, 1)}


def resize(run: LiveRun, size: int) -> None:
    """Scale the pool; return once it has that size and nobody is on the way out."""
    run.command("scale", f"rollout={size}")
    run.wait(f"{size} workers", lambda: settled(run, size))


def settled(run: LiveRun, size: int) -> bool:
    pool = run.command("status")["pools"]["rollout"]
    return len(pool["members"]) == size and not pool["leaving"]


def lose(run: LiveRun, both: Nodes, seconds: float) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a window of eight workers in which the second node is lost, and what that cost."""
    lost = both.on_second(run)
    began = time.time()
    time.sleep(seconds / 2)
    cut = time.time()
    both.cut()
    run.wait("eight others", lambda: settled(run, 8) and not lost & set(run.pids("rollout")))
    recovered = time.time()
    rest = window(run, 8, max(0.0, seconds - (recovered - began)))
    came = run.sql(GENERATED.format(began, recovered))[0]["n"] + rest["trajectories_per_s"] * rest["seconds"]
    again = run.sql("SELECT count(*) AS n FROM events WHERE event = 'dropped' AND reason = 'worker_lost'")[0]["n"]
    took = time.time() - began
    found = {"workers": 8, "trajectories_per_s": round(came / took, 1), "seconds": round(took, 1)}
    return found, {"lost": {"workers": len(lost), "slots": again}, "recovery_s": round(recovered - cut, 1)}


def measure(seconds: float) -> dict[str, Any]:
    """Return the figures of one run."""
    with tempfile.TemporaryDirectory() as folder, nodes() as both:
        run = LiveRun(Path(folder), *WORDS, *both.words)
        run.start()
        try:
            run.wait("the first update", lambda: run.trained)
            both.join()
            sizes = []
            for size in STEPS:
                resize(run, size)
                sizes.append(window(run, size, seconds))
            during, cost = lose(run, both, seconds)
            sizes.append({**during, "node": "lost"})
            for size in (4, 1):
                resize(run, size)
                sizes.append(window(run, size, seconds))
            run.command("stop")
            run.finish()
        finally:
            if run.process is not None and run.process.poll() is None:
                run.process.kill()
                run.process.wait()
        books = audit(run.path)
        return {"sizes": sizes, **cost, "audit": {"balanced": books.balanced, **books.totals}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each window")
    print(json.dumps(measure(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()

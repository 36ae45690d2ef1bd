"""The head of a report: what the run was, its numbers, and what became of its trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from buffers.records.report_data import Run
from buffers.records.report_page import Tile, shares

__all__ = ["headline", "outcomes", "subtitle"]

COLOURS = {"trained": "s0", "dropped": "s5", "failed": "bad", "rolled_back": "s3", "in_flight": "s4"}
REASONS = {
    "run_ended": "not needed any more when the run ended",
    "stale": "older than max_staleness when their turn came; generated again",
    "worker_lost": "their rollout worker died; generated again",
    "restart": "lost with a crash; generated again after the restart",
}


def subtitle(run: Run) -> str:
    """Return mode, staleness bound, engine, seed, start and weights of the run."""
    started = None if run.started is None else datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = (
        _text("{}", run.config.get("mode") or run.get("mode")),
        _text("staleness ≤ {}", run.config.get("max_staleness")),
        _text("engine {}", run.config.get("engine")),
        _text("seed {}", run.config.get("seed", run.get("seed"))),
        _text("started {}", started),
        _text("weights sha256 {:.12}", run.get("weights_sha256")),
    )
    return " · ".join(filter(None, parts))


def headline(run: Run) -> Iterable[Tile]:
    """Return the headline numbers that the summary holds."""
    admitted, trained = (run.get("trajectories", state) for state in ("admitted", "trained"))
    mean, p95, largest = (run.get("staleness", what) for what in ("mean", "p95", "max"))
    learner, rollout = (_scaled(run.get("idle", who), 100) for who in ("learner", "rollout"))
    pause, spanning = _scaled(run.get("publish", "pause_s_p50"), 1e3), _scaled(run.get("spanning_share"), 100)
    tokens, publishes, wall = run.get("tokens_per_s"), run.get("publish", "count"), run.get("wall_s")
    labels, coverage = run.get("intrinsic", "labels"), _scaled(run.get("intrinsic", "coverage"), 100)
    tiles = (
        _accuracy(run),
        _return(run),
        Tile("trained samples", _text("{:,}", trained), _text("of {:,} admitted", admitted)),
        Tile("samples per second", _text("{:,.0f}", run.get("samples_per_s")),
             _text("{:,.0f} tokens per second", tokens)),
        Tile("frames per second", _text("{:,.0f}", run.get("env_frames_per_s")),
             _text("{:,} frames trained on", run.get("env_frames"))),
        Tile("labels", _text("{:,.0f}", labels), _text("for {:.0f} % of the captions met", coverage)),
        Tile("wall time", "" if wall is None else _duration(wall), _text("{:,} publishes", publishes)),
        Tile("staleness", _text("{:.2f}", mean), _text("mean; p95 {:.0f}, max {:.0f} versions", p95, largest)),
        Tile("samples spanning versions", _text("{:.0f} %", spanning), "weights swapped while in flight"),
        Tile("learner idle", _text("{:.0f} %", learner), _text("rollout idle {:.0f} %", rollout)),
        Tile("pause for new weights", _text("{:.1f} ms", pause), "median of the engines"),
    )  # fmt: skip
    return (tile for tile in tiles if tile.value)


def outcomes(run: Run) -> str:
    """Return how many trajectories reached which state, and why some were not trained on."""
    counts = [(state.replace("_", " "), run.get("trajectories", state) or 0, c) for state, c in COLOURS.items()]
    before = {state: run.get("trajectories", state) for state in ("admitted", "generated", "scored")}
    path = [f"{count:,} {state}" for state, count in before.items() if count is not None]
    rows = [(f"{count:,}", f"{event.replace('_', ' ')}: {reason}", REASONS.get(reason, ""))
            for event, reason, count in run.reasons]  # fmt: skip
    return shares(counts, " → ".join(path), rows)


def _accuracy(run: Run) -> Tile:
    before, after = (run.get("eval", when, "accuracy") for when in ("before", "after"))
    value = _text("{:.1%} → {:.1%}", before, after) or _text("{:.1%}", after)
    tasks, detail = run.get("eval", "after", "tasks"), "on held-out tasks, before and after"
    if tasks and after is not None:
        # The normal approximation of a 95 % interval: what a different draw of tasks could change.
        detail = f"on {tasks:,.0f} held-out tasks, ± {196 * math.sqrt(after * (1 - after) / tasks):.1f} points"
    return Tile("accuracy", value.replace("%", " %"), detail, lead=True)


def _return(run: Run) -> Tile:
    before, after = (run.get("eval", when, "return_mean") for when in ("before", "after"))
    success = [_scaled(run.get("eval", when, "success_rate"), 100) for when in ("before", "after")]
    episodes = run.get("eval", "after", "episodes")
    detail = _text("success {:.0f} % → {:.0f} %", *success) or "before and after"
    return Tile("return", _text("{:,.4g} → {:,.4g}", before, after) or _text("{:,.4g}", after),
                f"{detail}{_text(', {:,.0f} episodes', episodes)}", lead=True)  # fmt: skip


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _text(form: str, *values: Any) -> str:
    """Return the formatted values, or "" when one is missing."""
    return "" if any(value is None for value in values) else form.format(*values)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor

"""The report of a run: one HTML file with numbers, curves, advice and samples.

It reads what a run folder holds at the moment (`config.yaml`, `summary.json`, `metrics/`); whatever is
missing leaves its part out, so a report can be made while the run goes on or after it died.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from buffers.records.metric_names import describe, matching
from buffers.records.plots import Chart, Line, draw
from buffers.records.report_data import Floats, Run, advisories, load_run
from buffers.records.report_page import Card, Tile, card, page, section, shares, table, tiles

__all__ = ["write_report"]

WIDE = (5.4, 2.45)
UNSAID = ("1", "share", "reward")  # units that a chart's title does without
OUTCOMES = {"trained": "s0", "dropped": "s1", "failed": "bad", "rolled_back": "s5"}  # and their colours


@dataclass(frozen=True, kw_only=True)
class _Panel:
    title: str
    lines: Mapping[str, str]
    """metric name, possibly with a placeholder -> label; an empty label takes what stands for the placeholder."""
    chart: Chart = field(default_factory=Chart)
    band: str | None = None
    wide: bool = False


PANELS = (
    _Panel(title="Accuracy on held-out tasks", lines={"eval/<task>/accuracy": ""}, wide=True,
           chart=Chart(size=WIDE, percent=True, markers=True)),
    _Panel(title="Reward", lines={"reward/mean": "mean"}, band="reward/std", wide=True, chart=Chart(size=WIDE)),
    _Panel(title="Reward components", lines={"rewards/<component>/mean": ""}),
    _Panel(title="Staleness", lines={"staleness/mean": "mean", "staleness/max": "max"}),
    _Panel(title="Idle time", lines={"idle/learner": "learner", "idle/rollout": "rollout"}, chart=Chart(percent=True)),
    _Panel(title="Throughput", lines={"perf/throughput": ""}),
    _Panel(title="Token throughput", lines={"perf/tokens_per_s": ""}),
    _Panel(title="Response length", lines={"response_length/mean": ""}),
    _Panel(title="Entropy", lines={"policy/entropy": ""}),
    _Panel(title="KL divergence", lines={"policy/kl_ref": "reference", "policy/ppo_kl": "behaviour"}),
    _Panel(title="Engine-learner mismatch", lines={"rollout/mismatch_kl/mean": ""}),
    _Panel(title="Effective sample size", lines={"rollout/ess": ""}, chart=Chart(percent=True)),
    _Panel(title="Gradient norm", lines={"optim/grad_norm": ""}),
    _Panel(title="Weight sync", lines={"time/weight_sync": ""}),
)  # fmt: skip


def write_report(run_folder: Path, samples: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
      run_folder: `runs/<name>`.
      samples: trajectories to show: `prompt`, `completion`, `answer`, `reward` (None without a valid score).

    Raises:
      DataError: the folder does not exist.
    """
    run = load_run(run_folder)
    advice = "".join(f"<li>{html.escape(line)}</li>" for line in advisories(run))
    charts, rest = _cards(run)
    body = [
        tiles(_headline(run)),
        shares(
            [
                (state.replace("_", " "), run.get("trajectories", state) or 0, colour)
                for state, colour in OUTCOMES.items()
            ]
        ),
        f'<ul class="advice">{advice}</ul>' if advice else "",
        section("Curves", _grid(charts)),
        section("Samples", table(("prompt", "completion", "answer", "reward"), map(_sample_row, samples))),
        section(f"All other metrics ({len(rest)})", _grid(rest), folded=True),
    ]
    path = run_folder / "report.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        page(run.name, run.get("status") or "unfinished", _subtitle(run), body, _footer(run)), encoding="utf-8"
    )
    os.replace(temporary, path)
    return path


def _cards(run: Run) -> tuple[list[Card], list[Card]]:
    """Return the charts of `PANELS` that have data, and one small chart for each other metric."""
    charts, used = [], set()
    for panel in PANELS:
        lines = _lines(run, panel)
        used |= {name for name, _ in lines} | {panel.band}
        if any(np.isfinite(line.values).any() for _, line in lines):
            charts.append(_card(panel, _bounded(run, panel), lines))
    others = [_Panel(title=name, lines={name: ""}) for name in run.series if name not in used]
    return charts, [_card(panel, panel.chart, _lines(run, panel)) for panel in others]


def _lines(run: Run, panel: _Panel) -> list[tuple[str, Line]]:
    """Return (metric name, line) of a panel's metrics that were logged."""
    found = []
    for pattern, label in panel.lines.items():
        for name, placeholder in matching(pattern, run.series).items():
            updates, values = run.series[name]
            found.append((name, Line(label or placeholder, updates, values, _spread(run, panel, updates))))
    return found


def _spread(run: Run, panel: _Panel, updates: Floats) -> Floats | None:
    if panel.band is None or panel.band not in run.series:
        return None
    at, width = run.series[panel.band]
    return np.interp(updates, at, width)


def _bounded(run: Run, panel: _Panel) -> Chart:
    bound = run.config.get("max_staleness")
    if "staleness/max" in panel.lines and bound is not None:
        return replace(panel.chart, bound=("max_staleness", float(bound)))
    return panel.chart


def _card(panel: _Panel, chart: Chart, lines: Sequence[tuple[str, Line]]) -> Card:
    metrics = {metric.name: metric for name, _ in lines if (metric := describe(name))}
    notes = [(name, f"{m.meaning} ({m.unit}). Healthy: {m.healthy}.") for name, m in metrics.items()]
    unit = next((m.unit for m in metrics.values() if m.unit not in UNSAID), "")
    return Card(panel.title, unit, draw(chart, [line for _, line in lines]), notes, panel.wide)


def _grid(cards: Sequence[Card]) -> str:
    return f'<div class="cards">{"".join(map(card, cards))}</div>' if cards else ""


def _text(form: str, *values: Any) -> str:
    """Return the formatted values, or "" when one is missing."""
    return "" if any(value is None for value in values) else form.format(*values)


def _headline(run: Run) -> Iterable[Tile]:
    """Return the headline numbers that the summary holds."""
    before, after = (run.get("eval", when, "accuracy") for when in ("before", "after"))
    admitted, trained = (run.get("trajectories", state) for state in ("admitted", "trained"))
    mean, p95, largest = (run.get("staleness", what) for what in ("mean", "p95", "max"))
    learner, rollout = (_scaled(run.get("idle", who), 100) for who in ("learner", "rollout"))
    pause, spanning = _scaled(run.get("publish", "pause_s_p50"), 1e3), _scaled(run.get("spanning_share"), 100)
    tokens, publishes = run.get("tokens_per_s"), run.get("publish", "count")
    accuracy = _text("{:.3f} → {:.3f}", before, after) or _text("{:.3f}", after)
    tiles = (
        Tile("accuracy", accuracy, "on held-out tasks, before and after", lead=True),
        Tile("trained samples", _text("{:,}", trained), _text("of {:,} admitted", admitted)),
        Tile(
            "samples per second", _text("{:,.0f}", run.get("samples_per_s")), _text("{:,.0f} tokens per second", tokens)
        ),
        Tile("wall time", _text("{:.1f} min", _scaled(run.get("wall_s"), 1 / 60)), _text("{:,} publishes", publishes)),
        Tile("staleness", _text("{:.2f}", mean), _text("mean; p95 {:.0f}, max {:.0f} versions", p95, largest)),
        Tile("samples spanning versions", _text("{:.0f} %", spanning), "weights swapped while in flight"),
        Tile("learner idle", _text("{:.0f} %", learner), _text("rollout idle {:.0f} %", rollout)),
        Tile("pause for new weights", _text("{:.1f} ms", pause), "median of the engines"),
    )
    return (tile for tile in tiles if tile.value)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _subtitle(run: Run) -> str:
    parts = (
        _text("{}", run.config.get("mode") or run.get("mode")),
        _text("staleness ≤ {}", run.config.get("max_staleness")),
        _text("engine {}", run.config.get("engine")),
        _text("seed {}", run.config.get("seed", run.get("seed"))),
        _text("weights sha256 {:.16}", run.get("weights_sha256")),
    )
    return " · ".join(filter(None, parts))


def _footer(run: Run) -> str:
    updates = int(max((updates.max() for updates, _ in run.series.values()), default=0))
    return f"{len(run.series)} metrics over {updates} updates. Strong lines are moving averages over 1/25 of the run."


def _sample_row(sample: Mapping[str, Any]) -> tuple[str, ...]:
    reward = sample.get("reward")
    scored = "no score" if reward is None else f"{reward:.3g}"
    return (*(str(sample.get(key, "")) for key in ("prompt", "completion", "answer")), scored)

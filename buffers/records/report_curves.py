"""The charts of a report: panels and leftovers of a run as cards, constants as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from buffers.records.metric_names import Metric, describe, matching
from buffers.records.panels import PANELS, Panel
from buffers.records.plots import Line, draw
from buffers.records.report_data import Run
from buffers.records.report_page import Card

__all__ = ["constants", "curves", "leftovers"]

UNSAID = ("1", "share", "reward", "ratio")  # units that a chart's title does without
OPEN = ("no fixed range", "steady")  # healthy ranges that say nothing beside a curve


def curves(run: Run) -> dict[str, list[Card]]:
    """Return the charts of `PANELS` that have data, by heading."""
    return {heading: [c for panel in panels if (c := _card(run, panel))] for heading, panels in PANELS.items()}


def leftovers(run: Run) -> list[Card]:
    """Return one chart for each metric that no panel shows and that changes."""
    cards = (_card(run, Panel(title=name, lines={name: ""})) for name in _unshown(run) if not _constant(run, name))
    return [card for card in cards if card]


def constants(run: Run) -> list[tuple[str, str, str]]:
    """Return (metric, meaning, value) of those that no panel shows and that never changed."""
    rows = [(name, describe(name), run.series[name][1][-1]) for name in _unshown(run) if _constant(run, name)]
    return [(name, _meaning(metric), f"{value:,.6g}") for name, metric, value in rows]


def _unshown(run: Run) -> list[str]:
    panels = [panel for group in PANELS.values() for panel in group]
    shown = {name for panel in panels for name, _ in _lines(run, panel)}
    return [name for name in run.series if name not in shown]


def _constant(run: Run, name: str) -> bool:
    values = run.series[name][1]
    return bool(len(values) > 1 and np.isfinite(values).all() and (values == values[0]).all())


def _lines(run: Run, panel: Panel) -> list[tuple[str, Line]]:
    """Return (metric name, line) of a panel's metrics that were logged."""
    found = []
    for pattern, label in panel.lines.items():
        for name, placeholder in matching(pattern, run.series).items():
            found.append((name, Line(label or placeholder, *run.series[name])))
    if panel.unless_zero and all((line.values == 0).all() for _, line in found):
        return []
    return found


def _card(run: Run, panel: Panel) -> Card | None:
    lines = _lines(run, panel)
    if not any(np.isfinite(line.values).any() for _, line in lines):
        return None
    lines, same = _distinct(lines)
    metrics = {metric.name: metric for name, _ in lines if (metric := describe(name))}
    unit = next((m.unit for m in metrics.values() if m.unit not in UNSAID), "")
    chart = replace(panel.chart, bound=_bound(run, panel, metrics), span=_span(run))
    notes = [(name, _note(metric, brief=len(metrics) > 2)) for name, metric in metrics.items()]
    notes += [(name, f"is equal to {lines[0][0]} throughout.") for name in same]
    if "rollout/mismatch_kl/mean" in metrics and (fresh := _fresh(run)):
        notes.append(("", fresh))
    return Card(panel.title, unit, draw(chart, [line for _, line in lines]), notes)


def _distinct(lines: Sequence[tuple[str, Line]]) -> tuple[list[tuple[str, Line]], list[str]]:
    """Split off the names of lines that repeat the first one: the only reward component is the combined reward."""
    first = lines[0][1].values
    same = [name for name, line in lines[1:] if np.array_equal(line.values, first, equal_nan=True)]
    return [(name, line) for name, line in lines if name not in same], same


def _span(run: Run) -> tuple[float, float]:
    return 0.0, max((float(updates.max()) for updates, _ in run.series.values() if len(updates)), default=1.0)


def _bound(run: Run, panel: Panel, metrics: Mapping[str, Metric]) -> tuple[str, float] | None:
    """Return the panel's limit in this run's configuration, else the threshold of its metrics."""
    if panel.limit is not None:
        level = _setting(run.config, panel.limit[1])
        return None if level is None else (panel.limit[0], float(level))
    for metric in metrics.values():
        if metric.high:
            return "healthy below", metric.high
        if metric.low:
            return "healthy above", metric.low
    return None


def _setting(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _meaning(metric: Metric | None) -> str:
    return "" if metric is None else metric.meaning


def _note(metric: Metric, brief: bool) -> str:
    return f"{metric.meaning}." + ("" if brief or metric.healthy in OPEN else f" Healthy: {metric.healthy}.")


def _fresh(run: Run) -> str:
    """Say how large the mismatch is without staleness: what is left is the engine's own error."""
    if "staleness/max" not in run.series:
        return ""
    (aged, ages), (updates, mismatch) = run.series["staleness/max"], run.series["rollout/mismatch_kl/mean"]
    values = mismatch[np.isin(updates, aged[ages == 0]) & np.isfinite(mismatch)]
    if not len(values):
        return ""
    where = "the one update" if len(values) == 1 else f"the {len(values):,} updates"
    return f"In {where} without stale samples it was {values.mean():.1e}: the part that is the engine's."

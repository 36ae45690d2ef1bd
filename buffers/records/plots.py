"""Charts of a run as inline SVG: one look for all of them.

Matplotlib draws without pyplot, so nothing is global. Colours go in as placeholders and come out as
CSS variables of the page, which gives the charts its light and dark themes; text stays text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

__all__ = ["Chart", "Line", "draw", "smooth"]

Floats = NDArray[np.float64]

# Placeholder colours; each becomes the CSS variable of its name. Nothing else uses them.
INK, MUTED, GRID, BAD = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BAD: "bad"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headrace",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
}
SMOOTHING = 25  # windows that a curve is long: the smoothed line averages 1/25 of the run
POINTS = 1000  # of a curve that are drawn; keeps the page small after 100,000 updates
FEW = 40  # points up to which a curve is drawn as it is


class Line(NamedTuple):
    """One metric over the run. N logged values, by update."""

    label: str
    updates: Floats  # [N]
    values: Floats  # [N], may hold NaN and infinities
    spread: Floats | None = None  # [N] half-width of the band around the smoothed line


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a chart looks like."""

    size: tuple[float, float] = (4.3, 2.45)
    """Inches at 72 points; the page scales it."""
    percent: bool = False
    """Values are shares: the axis runs from 0 to 100 %."""
    markers: bool = False
    """Few, exact points: no smoothing, a dot and a value for each end."""
    zero: bool = True
    """The axis contains 0, so that heights compare."""
    bound: tuple[str, float] | None = None
    """A labelled horizontal limit."""


def smooth(values: Floats, window: int) -> Floats:
    """Return the centred moving average over `window` values; at the ends over those that exist.

    Args:
      values: [N] finite.
      window: values; 1 returns them as they are.
    """
    kernel = np.ones(max(1, min(window, len(values))))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def draw(chart: Chart, lines: Sequence[Line]) -> str:
    """Return the `<svg>` of a chart; lines without a finite value are left out."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=chart.size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        _frame(axes, chart)
        ends = [_line(axes, chart, line, SERIES[i % len(SERIES)]) for i, line in enumerate(lines)]
        _limits(axes, chart)
        _labels(axes, chart, lines, ends)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(out.getvalue())


def _frame(axes: Axes, chart: Chart) -> None:
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _percent(v) if chart.percent else _short(v)))
    axes.margins(x=0.01)


def _line(axes: Axes, chart: Chart, line: Line, colour: str) -> float | None:
    """Draw one line; return its last height, None where it has no finite value."""
    finite = np.isfinite(line.values)
    x, y = line.updates[finite], line.values[finite]
    lost = line.updates[~finite]
    # Flagged at the foot of the chart: a hole alone is easily overlooked.
    axes.plot(lost, np.full(len(lost), 0.03), "x", color=BAD, markersize=5, transform=axes.get_xaxis_transform())
    if not len(y):
        return None
    if chart.markers or len(y) <= FEW:
        axes.plot(x, y, color=colour, linewidth=2, marker="o" if chart.markers else None, markersize=5, clip_on=False)
        if chart.markers and len(y) > 1:
            axes.annotate(_percent(y[0]) if chart.percent else _short(y[0]), (x[0], y[0]), xytext=(8, -10),
                          textcoords="offset points", color=colour, weight="bold")  # fmt: skip
        return float(y[-1])
    window = len(y) // SMOOTHING
    level = smooth(y, window)
    some = slice(None, None, 1 + len(y) // POINTS)
    axes.plot(x[some], y[some], color=colour, linewidth=0.6, alpha=0.25)
    if line.spread is not None:
        band = smooth(np.nan_to_num(line.spread[finite]), window)
        lower, upper = (level - band)[some], (level + band)[some]
        axes.fill_between(x[some], lower, upper, color=colour, alpha=0.12, linewidth=0)
    axes.plot(x[some], level[some], color=colour, linewidth=2, solid_capstyle="round")
    return float(level[-1])


def _limits(axes: Axes, chart: Chart) -> None:
    if chart.percent:
        axes.set_ylim(0, 1)
        return
    if chart.bound is not None:
        axes.axhline(chart.bound[1], color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.2 * chart.bound[1]))  # room for its label
    if chart.zero and axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)
    elif chart.zero and axes.dataLim.y1 <= 0:
        axes.set_ylim(top=0)


def _labels(axes: Axes, chart: Chart, lines: Sequence[Line], ends: Sequence[float | None]) -> None:
    """Write each line's name and last value at its right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    wanted = sorted((end, i) for i, end in enumerate(ends) if end is not None)
    gap = 0.1 * (high - low)
    heights: list[float] = []
    for end, _ in wanted:
        heights.append(max(end, heights[-1] + gap) if heights else end)
    overshoot = max(0.0, (heights[-1] if heights else low) - high)
    for (end, i), height in zip(wanted, heights, strict=True):
        value = _percent(end) if chart.percent else _short(end)
        text = f"{lines[i].label} {value}" if len(lines) > 1 else value
        axes.annotate(
            text, (1.0, height - overshoot), xycoords=("axes fraction", "data"), xytext=(7, 0),
            textcoords="offset points", va="center", color=SERIES[i % len(SERIES)], weight="bold",
        )  # fmt: skip
    if chart.bound is not None and not chart.percent:
        name, level = chart.bound
        axes.annotate(f"{name} {_short(level)}", (0.01, level), xycoords=("axes fraction", "data"), xytext=(0, 3),
                      textcoords="offset points", color=BAD, fontsize=8.5)  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _short(value: float) -> str:
    """Return a number in at most five characters where possible: 0.012, 1.5, 20.3k, 1e-6."""
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1e6:.3g}M" if size >= 1e6 else f"{value / 1e3:.3g}k"
    if size >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1e}".replace("e-0", "e-") if 0 < size < 1e-3 else f"{value:.3g}"


def _themed(svg: str) -> str:
    """Return the bare `<svg>` element with placeholders turned into CSS variables."""
    svg = svg[svg.index("<svg") :]
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg

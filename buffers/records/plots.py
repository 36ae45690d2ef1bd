"""Charts of a run as inline SVG: one look for all of them.

Matplotlib draws without pyplot, so nothing is global. Colours go in as placeholders and come out as
CSS variables of the page, which gives the charts its light and dark themes; text stays text.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = ["Chart", "Line", "draw", "smooth"]

Floats = NDArray[np.float64]

# Placeholder colours; each becomes the CSS variable of its name. Nothing else uses them.
INK, MUTED, GRID, BAD = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BAD: "bad"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # once the colours are used up
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
CHARACTER = 5.9  # points that a character of a label takes
SPIKE = 3.0  # raw values larger than this many times the smoothed ones leave the chart instead of flattening it
RESOLUTION = 1e-3  # of its level, that an axis without 0 shows at least: rounding errors are no news
END = 4  # the share of a line, one in so many, that is under a text at an end of its chart
LOW_SHARE = 0.2  # shares that stay below this get an axis of their own


class Line(NamedTuple):
    """One metric over the run. N logged values, by update."""

    label: str
    updates: Floats  # [N], or what `Chart.across` names
    values: Floats  # [N], may hold NaN and infinities
    spread: Floats | None = None  # [N] half the width of an interval around values that are smooth already


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a chart looks like."""

    size: tuple[float, float] = (4.3, 2.15)
    """Inches at 72 points; the page scales it."""
    span: tuple[float, float] | None = None
    """First and last update of the horizontal axis, so that charts of one run line up; None takes the lines'."""
    across: str = "update"
    """What the horizontal axis counts."""
    percent: bool = False
    """Values are shares: the axis runs from 0 to 100 %, or less far where all are small."""
    markers: bool = False
    """Few, exact points: no smoothing, a dot and a value for each end."""
    zero: bool = True
    """The axis contains 0, so that heights compare."""
    bound: tuple[str, float] | None = None
    """A labelled horizontal limit, drawn where it does not flatten the lines."""


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
        figure = Figure(figsize=chart.size)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        _frame(axes, chart.across)
        ends = [_line(axes, chart, lines, i) for i in range(len(lines))]
        _limits(axes, chart, lines)
        ticks = _ticks(axes, chart)
        labels = _labels(axes, chart, lines, ends)
        _margins(figure, ticks, labels)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(out.getvalue())


def _frame(axes: Axes, across: str) -> None:
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=across == "update", steps=[1, 2, 2.5, 5, 10]))
    axes.annotate(across, (1, 0), xycoords="axes fraction", xytext=(14, -5), textcoords="offset points",
                  va="top", color=MUTED)  # fmt: skip


def _line(axes: Axes, chart: Chart, lines: Sequence[Line], at: int) -> float | None:
    """Draw line `at`; return its last height, None where it has no finite value."""
    line, colour, dash = lines[at], SERIES[at % len(SERIES)], DASHES[at // len(SERIES) % len(DASHES)]
    finite = np.isfinite(line.values)
    x, y = line.updates[finite], line.values[finite]
    lost = line.updates[~finite]
    # Flagged at the foot of the chart: a hole alone is easily overlooked.
    axes.plot(lost, np.full(len(lost), 0.03), "x", color=BAD, markersize=5, transform=axes.get_xaxis_transform())
    if not len(y):
        return None
    if line.spread is not None:
        low, high = y - line.spread[finite], y + line.spread[finite]
        if (y >= 0).all():
            low = np.maximum(low, 0.0)  # few seeds make intervals wide, and most metrics are never negative
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    if chart.markers or len(y) <= FEW or line.spread is not None:
        marker = "o" if chart.markers else None
        axes.plot(x, y, color=colour, linewidth=2, linestyle=dash, marker=marker, markersize=5, clip_on=False)
        if chart.markers and len(y) > 1 and line.label:
            axes.annotate(_value(chart, y[0]), (x[0], y[0]), xytext=(9, -11 if y[1] > y[0] else 6),
                          textcoords="offset points", color=colour, weight="bold")  # fmt: skip
        return float(y[-1])
    level = smooth(y, len(y) // SMOOTHING)
    some = slice(None, None, 1 + len(y) // POINTS)
    axes.plot(x[some], y[some], color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(x[some], level[some], color=colour, linewidth=2, linestyle=dash, solid_capstyle="round")
    return float(level[-1])


def _limits(axes: Axes, chart: Chart, lines: Sequence[Line]) -> None:
    low, high = chart.span or (axes.dataLim.x0, axes.dataLim.x1)
    if np.isfinite([low, high]).all():
        axes.set_xlim(low, high if high > low else low + 1)
    bottom, top = axes.dataLim.y0, axes.dataLim.y1
    if not np.isfinite([bottom, top]).all():
        return
    reach = SPIKE * _reach(lines)
    bottom, top = max(bottom, -reach), min(top, reach)
    if chart.zero:
        bottom, top = min(bottom, 0.0), max(top, 0.0)
    if chart.percent and (chart.markers or top > LOW_SHARE):
        bottom, top = 0.0, 1.0
    if chart.bound is not None and (0.05 * top <= chart.bound[1] <= 2 * top if chart.zero else False):
        top = top if top == 1 else max(top, 1.15 * chart.bound[1])
        axes.axhline(chart.bound[1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        _name(axes, chart, chart.bound, lines)
    if not chart.zero:
        least = max(0.0, RESOLUTION * max(abs(bottom), abs(top)) - (top - bottom)) / 2
        bottom, top = bottom - least, top + least
    room = 0.06 * (top - bottom)
    if top > bottom:
        axes.set_ylim(bottom if chart.zero and bottom == 0 else bottom - room, top if top in (0, 1) else top + room)
    elif chart.zero:
        axes.set_ylim(0, 1)


def _reach(lines: Sequence[Line]) -> float:
    """Return the largest size that the smoothed lines reach."""
    finite = [line.values[np.isfinite(line.values)] for line in lines]
    return max((float(np.abs(smooth(y, len(y) // SMOOTHING)).max()) for y in finite if len(y)), default=0.0)


def _name(axes: Axes, chart: Chart, bound: tuple[str, float], lines: Sequence[Line]) -> None:
    """Write what the limit is at the end of the chart where the lines are farther from it."""
    name, level = bound
    finite = [line.values[np.isfinite(line.values)] for line in lines]
    left = min(np.abs(y[: 1 + len(y) // END].mean() - level) for y in finite if len(y))
    right = min(np.abs(y[-1 - len(y) // END :].mean() - level) for y in finite if len(y))
    place, side = (0.99, "right") if right >= left else (0.01, "left")
    axes.annotate(f"{name} {_value(chart, level)}", (place, level), xycoords=("axes fraction", "data"), xytext=(0, 3),
                  textcoords="offset points", ha=side, color=MUTED, fontsize=8.5)  # fmt: skip


def _ticks(axes: Axes, chart: Chart) -> list[str]:
    """Label the heights with as many decimals as their step needs; return the labels."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low - 1e-9 <= tick <= high + 1e-9]
    unit = 100 if chart.percent else 1
    step = unit * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    decimals = next((d for d in range(6) if math.isclose(step, round(step, d), rel_tol=1e-6)), 6)
    small = step > 1e-4 and unit * max(map(abs, ticks), default=0) < 100_000
    words = [f"{unit * tick:,.{decimals}f}" if small else _short(unit * tick) for tick in ticks]
    words = [f"{word} %" if chart.percent else word for word in words]
    axes.set_yticks(ticks, words)
    axes.set_ylim(low, high)
    return words


def _margins(figure: Figure, ticks: Sequence[str], labels: Sequence[str]) -> None:
    """Leave room for the texts; the same in most charts, so that their axes line up on the page."""
    width, height = (72 * inches for inches in figure.get_size_inches())
    left = max(42.0, 10 + CHARACTER * max(map(len, ticks), default=0))
    right = max(54.0, 10 + CHARACTER * max(map(len, labels), default=0))
    figure.subplots_adjust(left=left / width, right=1 - right / width, bottom=22 / height, top=1 - 8 / height)


def _labels(axes: Axes, chart: Chart, lines: Sequence[Line], ends: Sequence[float | None]) -> list[str]:
    """Write each line's name and last value at its right end, moved apart where they would overlap; return them."""
    low, high = axes.get_ylim()
    wanted = sorted((end, i) for i, end in enumerate(ends) if end is not None)
    gap = 0.11 * (high - low)
    heights: list[float] = []
    for end, _ in wanted:
        heights.append(max(end, heights[-1] + gap if heights else low + gap / 2))  # above "update"
    overshoot = max(0.0, (heights[-1] if heights else low) - high)
    texts = []
    for (end, i), height in zip(wanted, heights, strict=True):
        texts.append(f"{lines[i].label} {_value(chart, end)}".strip() if len(lines) > 1 else _value(chart, end))
        axes.annotate(
            texts[-1], (1.0, height - overshoot), xycoords=("axes fraction", "data"), xytext=(7, 0),
            textcoords="offset points", va="center", color=SERIES[i % len(SERIES)], weight="bold",
        )  # fmt: skip
    return texts


def _value(chart: Chart, value: float) -> str:
    return _percent(value) if chart.percent else _short(value)


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
    """Return the bare `<svg>` element with placeholders turned into CSS variables, and no digits that nobody sees."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg

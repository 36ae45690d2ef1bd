"""The page of a comparison: the same look as a report's, one chart for each main metric, one line for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from buffers.records.compare_data import FIGURES, Group, differences
from buffers.records.intervals import spread
from buffers.records.metric_names import describe, matching
from buffers.records.panels import SHARES
from buffers.records.plots import POINTS, SMOOTHING, Chart, Line, draw, smooth
from buffers.records.report_data import Floats, Run
from buffers.records.report_page import Card, cards, key, numbers, page, section, table

__all__ = ["comparison_page"]

MINUTE = 60.0
LONG_S = 180.0  # from here on time is shown in minutes


@dataclass(frozen=True)
class Panel:
    """One chart of a comparison."""

    title: str
    metric: str
    chart: Chart = field(default_factory=Chart)


ACCURACY = Panel("Accuracy on held-out tasks", "eval/<task>/accuracy", Chart(percent=True, markers=True))
RETURN = Panel("Return of evaluated episodes", "eval/<task>/return_mean", Chart(markers=True))
SUCCESS = Panel("Success of evaluated episodes", "eval/<task>/success_rate", Chart(percent=True, markers=True))
EPISODES = Panel("Return of an episode", "episode/return_mean")
REWARD = Panel("Reward", "reward/mean")
PANELS = {
    "Learning": (
        ACCURACY,
        RETURN,
        SUCCESS,
        EPISODES,
        Panel("Success of episodes", "episode/success_rate", SHARES),
        REWARD,
        Panel("Entropy", "policy/entropy"),
        Panel("Response length", "response_length/mean"),
        Panel("Gradient norm", "optim/grad_norm"),
        Panel("Groups that teach nothing", "reward/frac_zero_std", SHARES),
    ),
    "Learning over time": (ACCURACY, RETURN, SUCCESS, EPISODES, REWARD),
    "Intrinsic reward": (
        Panel("Labels", "intrinsic/labels"),
        Panel("Captions with a label", "intrinsic/coverage", SHARES),
        Panel("Held-out labels told right", "intrinsic/heldout_accuracy", SHARES),
    ),
    "Off-policy health": (
        Panel("Staleness", "staleness/mean"),
        Panel("KL to the policy that sampled", "rollout/mismatch_kl/mean"),
        Panel("Effective sample size", "rollout/ess", SHARES),
    ),
    "Speed": (
        Panel("Throughput", "perf/throughput"),
        Panel("Environment steps", "perf/fps"),
        Panel("Learner idle", "idle/learner", SHARES),
        Panel("Rollout idle", "idle/rollout", SHARES),
    ),
}
OVER_TIME = "Learning over time"


def comparison_page(groups: Sequence[Group]) -> str:
    """Return the whole HTML document of a comparison."""
    runs = sum(len(group.runs) for group in groups)
    changed = differences(groups)
    titles = [group.title for group in groups]
    found = {figure.label: [figure.text(group.figure(figure)) for group in groups] for figure in FIGURES}
    found = {label: texts for label, texts in found.items() if set(texts) != {"-"}}  # as in the terminal's table
    figures = [[group.title, *(texts[i] for texts in found.values())] for i, group in enumerate(groups)]
    settings = [[name, *map(str, values)] for name, values in changed.items()]
    body = [
        key(titles),
        numbers(table(["", *found], figures)),
        section("Settings that differ", numbers(table(["setting", *titles], settings, code=(0,)))),
        *(section(heading, cards(shown)) for heading in PANELS if (shown := _cards(groups, heading))),
    ]
    seeds = sorted({str(run.config.get("seed")) for group in groups for run in group.runs})
    subtitle = f"{runs} runs in {len(groups)} {'group' if len(groups) == 1 else 'groups'} · seeds {', '.join(seeds)}"
    return page("Comparison", "finished", subtitle, body, _footer(groups))


def _cards(groups: Sequence[Group], heading: str) -> list[Card]:
    over_time = heading == OVER_TIME
    found = []
    for panel in PANELS[heading]:
        names = {n: None for group in groups for run in group.runs for n in matching(panel.metric, run.series)}
        found += [_card(groups, panel, name, over_time=over_time) for name in names]
    return found


def _card(groups: Sequence[Group], panel: Panel, name: str, *, over_time: bool) -> Card:
    unit, seconds = "update", 1.0
    if over_time:
        longest = max(float(_clock(run)[1].max(initial=0.0)) for group in groups for run in group.runs)
        unit, seconds = ("min", MINUTE) if longest > LONG_S else ("s", 1.0)
    lines = [_line(group, panel, name, seconds if over_time else None) for group in groups]
    metric = describe(name)
    notes = [(name, f"{metric.meaning}." if metric else "")]
    return Card(panel.title, "", draw(replace(panel.chart, across=unit), lines), notes)


def _line(group: Group, panel: Panel, name: str, seconds: float | None) -> Line:
    """Return a run as it was logged, or the mean of several with its interval.

    Args:
      seconds: of one unit of the axis of time; None draws by update.
    """
    curves = [_curve(run, name, seconds) for run in group.runs]
    if len(curves) == 1:
        return Line("", *curves[0])
    if any(len(x) == 0 for x, _ in curves):
        return Line("", np.empty(0), np.empty(0))
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = curves[0][0]
    grid = grid[(grid >= first) & (grid <= last)]
    grid = grid[:: 1 + len(grid) // POINTS]
    window = 0 if panel.chart.markers else SMOOTHING
    rows = np.stack([np.interp(grid, x, smooth(y, len(y) // window if window else 1)) for x, y in curves])
    return Line("", grid, rows.mean(axis=0), spread(rows))


def _curve(run: Run, name: str, seconds: float | None) -> tuple[Floats, Floats]:
    updates, values = run.series.get(name, (np.empty(0), np.empty(0)))
    finite = np.isfinite(values)
    if seconds is None:
        return updates[finite], values[finite]
    return np.interp(updates[finite], *_clock(run)) / seconds, values[finite]


def _clock(run: Run) -> tuple[Floats, Floats]:
    """Return updates and the streaming time in seconds at their ends; pauses between two sessions do not count."""
    updates, spans = run.series.get("time/total", (np.empty(0), np.empty(0)))
    return np.concatenate([[0.0], updates]), np.concatenate([[0.0], np.cumsum(spans)])


def _footer(groups: Sequence[Group]) -> str:
    several = max(len(group.runs) for group in groups)
    band = "± and bands are 95 % intervals of the mean over seeds (Student's t). "
    smooth_note = "Strong lines are moving averages over 1/25 of a run; numbers at their ends are the last averages. "
    time_note = "Time counts the streaming phase alone."
    return f"{band if several > 1 else ''}{smooth_note}{time_note}"

"""The live view: one block of the terminal that redraws itself four times a second.

head: run, elapsed time
progress of the phase or of the updates, with the time left
numbers and their sparklines | pools and who waits for whom
one line for each alarm that is raised
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.alarm_news import AlarmNews
from actors.readout import FIGURES, HEADLINES, Recent, bottleneck, duration, figures, headlines, summary_rows

__all__ = ["LiveView", "sparkline"]

HISTORY = 400  # values kept for each sparkline
SPARK_WIDTH, LEAST_SPARK = 24, 6  # columns; a narrow terminal gets shorter ones, or none
FLAT = 0.05  # changes below this share of the level are drawn flat: noise is not news
MAX_WIDTH = 100  # columns; wider lines are hard to follow
MUCH = 0.5  # idle share from which on the bottleneck is coloured
BARS = "▁▂▃▄▅▆▇█"
SPARKS = {label: name for label, (name, _) in FIGURES.items()} | {
    "learner idle": "idle/learner",
    "rollout idle": "idle/rollout",
}


def sparkline(values: Sequence[float], width: int) -> str:
    """Return `values` as at most `width` bars between their own extremes; non-finite ones are left out.

    Values that hardly change give low bars, not the picture of a storm.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    width = min(width, len(finite))
    edges = [round(i * len(finite) / width) for i in range(width + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low = min(means)
    span = max(max(means) - low, FLAT * max(map(abs, means))) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


def _widest(rows: Sequence[tuple[str, str]], column: int, least: int) -> int:
    return max([least, *(len(row[column]) for row in rows)])


class LiveView:
    """Draws with rich; phases and warnings scroll above the block."""

    def __init__(
        self,
        title: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        animate: bool = True,
    ) -> None:
        """Start drawing.

        Args:
          title: head line.
          console: where to draw; None is stdout.
          clock: seconds, for elapsed and remaining time.
          animate: False draws only on `render()`, for pictures and tests.
        """
        self._title = title
        self._console = console or Console()
        self._clock = clock
        self._started = clock()
        self._phase = ""
        self._progress: tuple[str, int, int, str] = ("", 0, 0, "")
        self._origin: tuple[str, int, float] = ("", 0, self._started)
        self._metrics: Mapping[str, float] = {}
        self._recent = Recent()
        self._pools: Mapping[str, int] = {}
        self._history: dict[str, deque[float]] = {
            name: deque(maxlen=HISTORY) for name in (*SPARKS.values(), *HEADLINES.values())
        }
        self._evaluated: dict[str, str] = {}
        self._alarms: Mapping[str, str] = {}
        self._alarm_news = AlarmNews()
        self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=4, transient=True)
        if animate:
            self._live.start()

    def phase(self, text: str) -> None:
        self._phase = text
        self._progress = ("", 0, 0, "")
        self._above(Text(f"· {text}", style="dim"))

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        if self._origin[0] != label:
            self._origin = (label, done, self._clock())
        self._progress = (label, done, total, detail)

    def update(self, update: int, total: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None:
        self.progress("update", update, total)
        self._metrics, self._pools = self._recent.add(metrics), dict(pools)
        for name in SPARKS.values():
            if name in metrics:
                self._history[name].append(metrics[name])

    def evaluation(self, update: int, result: Mapping[str, float]) -> None:
        self._evaluated = headlines(result)
        for name, label in HEADLINES.items():
            if name in result:
                self._history[label].append(result[name])
        found = "  ".join(f"{label} {value}" for label, value in self._evaluated.items())
        self._above(Text.assemble(("· evaluation", "dim"), f" after {update} updates: ", (found, "bold green")))

    def warning(self, text: str) -> None:
        self._above(Text(f"! {text}", style="yellow"))

    def alarms(self, active: Mapping[str, str]) -> None:
        self._alarms = dict(active)
        for line in self._alarm_news.news(active):
            self.warning(line)

    def summary(self, summary: Mapping[str, Any]) -> None:
        self.close()
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for label, text in summary_rows(summary):
            table.add_row(label, Text(text, style="bold green" if label in HEADLINES.values() else ""))
        content = Group(Text(self._title, style="bold"), Text(), table)
        self._console.print(Panel(content, box=ROUNDED, border_style="dim", padding=(0, 1), width=self._width))

    def close(self) -> None:
        self._live.stop()

    def render(self) -> Panel:
        """Return the block as it stands now."""
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(Text(self._title, style="bold"), Text(duration(self._clock() - self._started), style="dim"))
        parts: list[RenderableType] = [head, Text(), self._bar()]
        if self._metrics or self._evaluated:
            parts += [Text(), self._numbers(), Text(), self._footer()]
        parts += [Text.assemble(("▲ ", "bold red"), (name, "red"), f"  {text}", overflow="ellipsis", no_wrap=True)
                  for name, text in self._alarms.items()]  # fmt: skip
        return Panel(Group(*parts), box=ROUNDED, border_style="dim", padding=(0, 1), width=self._width)

    @property
    def _width(self) -> int:
        return min(self._console.width, MAX_WIDTH)

    def _bar(self) -> Table | Text:
        label, done, total, detail = self._progress
        if not total:
            return Text(self._phase or "…", style="cyan")
        bar = Table.grid(expand=True, padding=(0, 2, 0, 0))
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        remaining = self._remaining(done, total)
        bar.add_row(
            Text.assemble(
                (f"{label} ", "cyan"), (f"{done}", "bold"), f"/{total}", (f"  {detail}" if detail else "", "dim")
            ),
            ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="green"),
            Text(remaining, style="dim"),
        )
        return bar

    def _remaining(self, done: int, total: int) -> str:
        _, first, since = self._origin
        if done <= first or done >= total:
            return f"{100 * done / total:.0f} %"
        return f"{duration((total - done) * (self._clock() - since) / (done - first))} left"

    def _numbers(self) -> Table:
        """Two columns of label, value and sparkline; they stay where they are while values change."""
        shown = figures(self._metrics)
        for who in ("learner", "rollout"):
            if f"idle/{who}" in self._metrics:
                shown[f"{who} idle"] = f"{100 * self._metrics[f'idle/{who}']:.0f} %"
        shown = {**self._evaluated, **shown}
        cells = list(shown.items())
        half = (len(cells) + 1) // 2
        columns = [cells[:half], cells[half:]]
        widths = [(_widest(column, 0, 9), _widest(column, 1, 7)) for column in columns]
        # What the texts leave to two sparklines; 4 is the frame, and there are 6 gaps of 2.
        spark = min(SPARK_WIDTH, (self._width - 4 - 12 - sum(map(sum, widths))) // 2)
        spark = spark if spark >= LEAST_SPARK else 0
        table = Table.grid(padding=(0, 2, 0, 0))
        for label, value in widths:
            for width in filter(None, (label, value, spark)):
                table.add_column(width=width, no_wrap=True)
        for pair in itertools.zip_longest(*columns, fillvalue=("", "")):
            table.add_row(*(text for label, value in pair for text in self._cell(label, value, spark)))
        return table

    def _cell(self, label: str, value: str, width: int) -> list[Text]:
        accent = "green" if label in HEADLINES.values() else ""
        texts = [Text(label, style="dim"), Text(value, style=f"bold {accent}")]
        if width:
            bars = sparkline(self._history.get(SPARKS.get(label, label), ()), width)
            texts.append(Text(bars, style=accent or "cyan"))
        return texts

    def _footer(self) -> Table:
        pools = Text("   ".join(f"{name} {count}" for name, count in self._pools.items()), style="dim")
        waiting = max(self._metrics.get("idle/learner", 0.0), self._metrics.get("idle/rollout", 0.0))
        verdict = Text(bottleneck(self._metrics), style="yellow" if waiting > MUCH else "")
        table = Table.grid(expand=True)
        table.add_column()
        if len(pools) + len(verdict) + 4 > self._width - 4:
            table.add_row(pools)
            table.add_row(verdict)
            return table
        table.add_column(justify="right", no_wrap=True)
        table.add_row(pools, verdict)
        return table

    def _above(self, text: Text) -> None:
        self._console.print(text)

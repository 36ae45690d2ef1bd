"""What a run says on the terminal while it runs.

    make_view("auto", ...)   LiveView on a terminal, PlainView in a pipe or a log file
    ├── LiveView   a table that redraws itself (`actors.live_view`)
    ├── PlainView  one quiet line per update, at most one every two seconds
    └── QuietView  warnings only, on stderr

Views read metrics by the names of `buffers.records.metric_names`; a metric that is missing leaves
its field out.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

from rich.console import Console

from actors.alarm_news import AlarmNews
from actors.live_view import LiveView
from actors.readout import FIGURES, Recent, bottleneck, duration, figures, headlines, summary_rows
from configs.errors import ConfigError

__all__ = ["PlainView", "QuietView", "View", "bottleneck", "make_view"]

LINE_INTERVAL_S = 2.0  # between two update lines of a plain view: a log of 10,000 updates stays readable
WIDTHS = {label: len(form.format(9.9)) for label, (_, form) in FIGURES.items()} | {
    "length": 5,
    "staleness": 11,
    "samples/s": 6,
}
"""label -> columns of its value in a plain view, so that the lines of a log stand in columns."""
UNSAID = "tokens/s"  # in a plain view: its lines are long enough


class View(Protocol):
    """Where a run reports; every method returns at once."""

    def phase(self, text: str) -> None:
        """Announce what begins now: "starting Ray"."""
        ...

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Show how far the phase is: ("warm start", 120, 300, "loss 0.41")."""
        ...

    def update(self, update: int, total: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None:
        """Show a learner update: its metrics, and the living members of each pool."""
        ...

    def evaluation(self, update: int, result: Mapping[str, float]) -> None:
        """Show what an evaluation found of the weights after `update` updates, its `headlines`."""
        ...

    def warning(self, text: str) -> None:
        """Say what a person should know now."""
        ...

    def alarms(self, active: Mapping[str, str]) -> None:
        """Show the alarms that are raised now, name -> text; called when one was raised or cleared."""
        ...

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Print the final numbers, as in `summary.json`."""
        ...

    def close(self) -> None:
        """Give the terminal back; safe to call twice."""
        ...


class QuietView:
    """Says nothing but warnings."""

    def __init__(self, errors: IO[str] | None = None) -> None:
        self._errors = errors or sys.stderr
        self._alarms = AlarmNews()

    def phase(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...

    def update(self, update: int, total: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None: ...

    def evaluation(self, update: int, result: Mapping[str, float]) -> None: ...

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=self._errors, flush=True)

    def alarms(self, active: Mapping[str, str]) -> None:
        for line in self._alarms.news(active):
            self.warning(line)

    def summary(self, summary: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class PlainView:
    """Writes lines that can be read in a log file; the last update is always written."""

    def __init__(self, out: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stdout
        self._clock = clock
        self._last_line = -LINE_INTERVAL_S
        self._first: tuple[int, float] | None = None
        self._evaluated: dict[str, str] = {}
        self._recent = Recent()
        self._alarms = AlarmNews()

    def phase(self, text: str) -> None:
        self._say(f"· {text}")

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        if self._due(final=done >= total):
            self._say(f"  {label} {done}/{total} {detail}".rstrip())

    def update(self, update: int, total: int, metrics: Mapping[str, float], pools: Mapping[str, int]) -> None:
        now = self._clock()
        self._first = self._first or (update, now)
        shown = self._recent.add(metrics)
        if not self._due(final=update >= total):
            return
        fields = [f"{update:>{len(str(total))}}/{total}"]
        fields += [f"{label} {value}" for label, value in self._evaluated.items()]
        told = (item for item in figures(shown).items() if item[0] != UNSAID)
        fields += [f"{label} {value:>{WIDTHS[label]}}" for label, value in told]
        fields += filter(None, [bottleneck(shown)])
        if update > self._first[0] and update < total:
            fields.append(f"{duration((total - update) * (now - self._first[1]) / (update - self._first[0]))} left")
        self._say("  ".join(fields))

    def evaluation(self, update: int, result: Mapping[str, float]) -> None:
        self._evaluated = headlines(result)
        found = "  ".join(f"{label} {value}" for label, value in self._evaluated.items())
        self._say(f"· evaluation after {update} updates: {found}")

    def warning(self, text: str) -> None:
        self._say(f"! {text}")

    def alarms(self, active: Mapping[str, str]) -> None:
        for line in self._alarms.news(active):
            self.warning(line)

    def summary(self, summary: Mapping[str, Any]) -> None:
        self._say("")
        for label, text in summary_rows(summary):
            self._say(f"{label:<14}{text}")

    def close(self) -> None:
        self._out.flush()

    def _due(self, final: bool) -> bool:
        now = self._clock()
        if not final and now - self._last_line < LINE_INTERVAL_S:
            return False
        self._last_line = now
        return True

    def _say(self, line: str) -> None:
        # Whoever read our lines may be gone; that is no reason to end a run.
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self._out, flush=True)


def make_view(
    mode: str, *, name: str, run_mode: str, max_staleness: int, seed: int, console: Console | None = None
) -> View:
    """Return the view of a run.

    Args:
      mode: auto | live | plain | quiet; auto is live exactly when stdout is a terminal.
      name, run_mode, max_staleness, seed: the run, for the head of the live view.
      console: where to write; None is stdout.

    Raises:
      ConfigError: unknown mode.
    """
    console = console or Console()
    if mode == "auto":
        mode = "live" if console.is_terminal else "plain"
    if mode == "plain":
        return PlainView(console.file)
    if mode == "quiet":
        return QuietView()
    if mode == "live":
        return LiveView(f"{name} · {run_mode}, staleness ≤ {max_staleness} · seed {seed}", console)
    raise ConfigError(f"logging.view is {mode!r}; it must be one of auto, live, plain, quiet; choose one of them")

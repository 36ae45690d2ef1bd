"""`launch.py compare`: runs side by side as a table, a page of overlaid curves, or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from buffers.files import write_atomically
from buffers.records.compare_data import FIGURES, Group, differences, load_groups
from buffers.records.compare_page import comparison_page

__all__ = ["compare_runs", "show_comparison"]

PAGE = "comparison.html"
NAMES, COLUMN = 20, 18  # characters of the first column and of a group's


def compare_runs(words: list[str]) -> int:
    """Compare runs that ended: `launch.py compare RUN RUN ... [--output FILE.html] [--json]`; seeds as intervals."""
    parser = argparse.ArgumentParser(prog="launch.py compare", description=compare_runs.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, runs/<name>")
    parser.add_argument("--output", type=Path, help=f"the page; {PAGE} beside the first run when left out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    target = options.output or options.runs[0].parent / PAGE
    show_comparison(load_groups(options.runs), target, as_json=options.json)
    return 0


def show_comparison(
    groups: Sequence[Group], target: Path, *, as_json: bool, more: Mapping[str, Any] | None = None
) -> None:
    """Write the page of a comparison to `target` and print its table; `more` are further fields of the JSON."""
    write_atomically(target, comparison_page(groups).encode())
    if as_json:
        print(json.dumps({"page": str(target), **_plain(groups), **(more or {})}, indent=1, default=str))
        return
    console = Console(highlight=False)
    for table in _tables(groups, console.width):
        console.print(table)
    if legend := _legend(groups):
        console.print(legend)
    console.print(str(target), soft_wrap=True)


def _plain(groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "groups": [
            {
                "label": group.label,
                "runs": [{"name": run.name, "seed": run.config.get("seed")} for run in group.runs],
                "figures": {
                    figure.label: found and found._asdict() for figure in FIGURES for found in [group.figure(figure)]
                },
            }
            for group in groups
        ],
        "differences": differences(groups),
    }


def _tables(groups: Sequence[Group], width: int) -> list[Table]:
    """Return figures and settings, with as many groups beside each other as the terminal is wide."""
    rows = [(figure.label, [figure.text(group.figure(figure)) for group in groups]) for figure in FIGURES]
    rows = [(label, cells) for label, cells in rows if set(cells) != {"-"}]
    changed = [(name, list(map(str, values))) for name, values in differences(groups).items()]
    beside = max(1, (width - NAMES) // (COLUMN + 2))
    tables = []
    for first in range(0, len(groups), beside):
        some = slice(first, first + beside)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("", overflow="fold")
        for group in groups[some]:
            table.add_column(group.title, justify="right", overflow="fold")
        for label, cells in rows:
            table.add_row(label, *cells[some])
        table.add_section()
        for name, cells in changed:
            table.add_row(name, *cells[some], style="dim")
        tables.append(table)
    return tables


def _legend(groups: Sequence[Group]) -> str:
    several = [group for group in groups if len(group.runs) > 1]
    seeds = (
        f"{group.label}: seeds {', '.join(str(run.config.get('seed')) for run in group.runs)}" for group in several
    )
    return "\n".join([*seeds, *(["± is the 95 % interval of the mean over seeds (Student's t)"] if several else [])])

"""The report of a run: one HTML file with numbers, advice, curves, examples and the configuration.

It reads what a run folder holds at the moment (`config.yaml`, `summary.json`, `metrics/`, `ledger/`);
whatever is missing leaves its part out, so a report can be made while the run goes on or after it died.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buffers.records.report_curves import constants, curves, leftovers
from buffers.records.report_data import Run, advisories, load_run, yaml_blocks
from buffers.records.report_head import headline, outcomes, subtitle
from buffers.records.report_page import cards, code_blocks, page, section, table, tiles

__all__ = ["write_report"]

TEXTS = ("prompt", "completion", "answer")
EXAMPLE = (*TEXTS, "version", "reward")


def write_report(run_folder: Path, samples: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
      run_folder: `runs/<name>`.
      samples: trajectories to show, as `buffers.records.examples.example_rows` returns them: `prompt`,
        `completion`, `answer`, `reward` (None without a valid score), optionally `kind`, `version`, `parts`.

    Raises:
      DataError: the folder does not exist.
    """
    run = load_run(run_folder)
    advice = "".join(f"<li>{html.escape(line)}</li>" for line in advisories(run))
    body = [
        tiles(headline(run)),
        outcomes(run),
        f'<ul class="advice">{advice}</ul>' if advice else "",
        _alarms(run),
        *(section(heading, cards(found)) for heading, found in curves(run).items()),
        _examples(samples),
        _rest(run),
        section("Configuration", code_blocks(yaml_blocks(run.config)), folded=True),
    ]
    path = run_folder / "report.html"
    temporary = path.with_suffix(".tmp")
    status = run.get("status") or "unfinished"
    temporary.write_text(page(run.name, status, subtitle(run), body, _footer(run)), encoding="utf-8")
    os.replace(temporary, path)
    return path


def _alarms(run: Run) -> str:
    """Return when which alarm was raised and cleared."""
    heads = ("alarm", "what", "", "update", "time (UTC)")
    rows = [
        [change["alarm"], change["text"], "raised" if change["raised"] else "cleared", f"{change['update']:,}",
         datetime.fromtimestamp(change["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")]
        for change in run.alarms
    ]  # fmt: skip
    return section("Alarms", table(heads, rows)) if rows else ""


def _rest(run: Run) -> str:
    """Return every metric that no curve above shows: those that changed as charts, the others as rows."""
    changing, still = leftovers(run), constants(run)
    heads = ("metric that never changed", "meaning", "value")
    content = cards(changing) + table(heads, still, code=(0,))
    return section(f"All other metrics ({len(changing) + len(still)})", content, folded=True)


def _examples(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return one table for each kind of sample."""
    kinds = dict.fromkeys(str(sample.get("kind", "Examples")) for sample in samples)
    parts = []
    for kind in kinds:
        rows = [sample for sample in samples if sample.get("kind", "Examples") == kind]
        heads = [key for key in EXAMPLE if any(key in row for row in rows)]
        code = [i for i, key in enumerate(heads) if key in TEXTS]
        parts.append(section(kind, table(heads, [[_cell(row, key) for key in heads] for row in rows], code)))
    return f'<div class="examples">{"".join(parts)}</div>' if parts else ""


def _cell(sample: Mapping[str, Any], key: str) -> str:
    value = sample.get(key)
    if key != "reward":
        return "" if value is None else str(value)
    scored = "no score" if value is None else f"{value:.3g}"
    return f"{scored} ({sample['parts']})" if sample.get("parts") else scored


def _footer(run: Run) -> str:
    updates = int(max((updates.max() for updates, _ in run.series.values()), default=0))
    return (
        f"{len(run.series)} metrics over {updates:,} updates. Strong lines are moving averages over 1/25 of the run; "
        "numbers at their ends are the last averages. Spikes beyond three times the averages leave their frame."
    )

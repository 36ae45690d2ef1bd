"""Commands that read run folders: audit, query, report, compare, sweep, timeline."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from buffers.records.audit import audit
from buffers.records.compare import compare_runs
from buffers.records.examples import example_rows
from buffers.records.query import query
from buffers.records.report import write_report
from buffers.records.sweep import sweep_runs
from buffers.records.timeline import timeline_run
from buffers.retired import read_retired

__all__ = ["COMMANDS"]


def audit_run(words: list[str]) -> int:
    """Reconcile ledger, payloads and the learner's digest: `launch.py audit RUN [--json]`; exit code 1: unbalanced."""
    options = _parser("audit", audit_run.__doc__).parse_args(words)
    result = audit(options.run)
    if options.json:
        print(json.dumps({**result.totals, **asdict(result)}, indent=1))
    else:
        print("  ".join(f"{name} {count}" for name, count in result.totals.items()))
        if result.retired:
            print(result.retired)
        print("balanced" if result.balanced else "NOT balanced:\n  " + "\n  ".join(result.problems))
    return 0 if result.balanced else 1


def query_run(words: list[str]) -> int:
    """Run SQL over a live or finished run: `launch.py query RUN "SELECT ..." [--json]`."""
    parser = _parser("query", query_run.__doc__)
    parser.add_argument("sql")
    options = parser.parse_args(words)
    rows = query(options.run, options.sql)
    if (retired := read_retired(options.run)).payloads_below:
        print(f"note: {retired}", file=sys.stderr)
    if options.json:
        print(json.dumps(rows.to_pylist(), default=str))
        return 0
    print("\t".join(rows.column_names))
    for row in rows.to_pylist():
        print("\t".join(str(value) for value in row.values()))
    return 0


def report_run(words: list[str]) -> int:
    """Write report.html of a live or finished run: `launch.py report RUN [--json]`."""
    options = _parser("report", report_run.__doc__).parse_args(words)
    path = write_report(options.run, example_rows(options.run))
    print(json.dumps({"report": str(path)}) if options.json else path)
    return 0


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"launch.py {name}", description=description)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>")
    parser.add_argument("--json", action="store_true")
    return parser


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "audit": audit_run,
    "query": query_run,
    "report": report_run,
    "compare": compare_runs,
    "sweep": sweep_runs,
    "timeline": timeline_run,
}

"""What a run needs, as a person reasons about it: lines that are OK, WARN or FAIL, with the next step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Requirement", "show_plan"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One line of the plan."""

    subject: str
    text: str
    """The arithmetic, with its units."""
    status: str = "OK"
    """OK | WARN | FAIL"""
    remedy: str = ""
    """What to change; for WARN and FAIL."""


def show_plan(lines: Sequence[Requirement], *, as_json: bool) -> int:
    """Print the plan; return 2 if a line fails, else 0."""
    if as_json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        for line in lines:
            remedy = f"\n{'':20}-> {line.remedy}" if line.remedy else ""
            print(f"{line.status:<5}{line.subject:<15}{line.text}{remedy}")
    return 2 if any(line.status == "FAIL" for line in lines) else 0

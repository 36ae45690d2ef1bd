"""`alarms.jsonl` of a run folder: every alarm that was raised or cleared, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from buffers.files import disk, write_atomically
from buffers.records.alarms import Change

__all__ = ["AlarmLog", "active_alarms", "alarm_totals", "read_alarms"]

NAME = "alarms.jsonl"


class AlarmLog:
    """Appends; what an earlier process of the run left raised is cleared, since it is watched anew."""

    def __init__(self, folder: Path, *, time: float) -> None:
        """Go on behind the last whole line; `time` as of `write`."""
        self._path = folder / NAME
        changes = read_alarms(folder)
        if not changes:
            return
        left = [Change(name, False, "the run was started again") for name in active_alarms(folder)]
        update = changes[-1]["update"]
        lines = [json.dumps(change) + "\n" for change in changes] + [_line(change, update, time) for change in left]
        with disk(self._path):
            write_atomically(self._path, "".join(lines).encode())

    def write(self, change: Change, *, update: int, time: float) -> None:
        """Store a change.

        Args:
          time: seconds since the Unix epoch.
        """
        with disk(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(change, update, time))


def _line(change: Change, update: int, time: float) -> str:
    return json.dumps({"time": time, "update": update, **change._asdict()}) + "\n"


def read_alarms(folder: Path) -> list[dict[str, Any]]:
    """Return the changes of a run's alarms in their order: time, update, alarm, raised, text, fatal."""
    path = folder / NAME
    if not path.exists():
        return []
    # A killed process can leave half a line at the end.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def active_alarms(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the alarms that are raised now, by name."""
    found: dict[str, dict[str, Any]] = {}
    for change in read_alarms(folder):
        found.pop(change["alarm"], None)
        if change["raised"]:
            found[change["alarm"]] = change
    return found


def alarm_totals(folder: Path) -> dict[str, dict[str, Any]]:
    """Return of each alarm how often it was raised, whether it is now, and what it said last."""
    changes, active = read_alarms(folder), active_alarms(folder)
    raised = [change for change in changes if change["raised"]]
    return {
        name: {
            "raised": sum(change["alarm"] == name for change in raised),
            "active": name in active,
            "text": next(change["text"] for change in reversed(raised) if change["alarm"] == name),
        }
        for name in dict.fromkeys(change["alarm"] for change in raised)
    }

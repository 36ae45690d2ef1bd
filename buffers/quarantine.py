"""Slots that kill workers: each leaves a file that says what it was and what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from buffers.files import Files, disk, write_atomically
from buffers.identity import Slot
from buffers.trajectory import Task

__all__ = ["Quarantine", "quarantined"]

FOLDER = "quarantine"


class Quarantine:
    """`runs/<name>/quarantine/<slot>.json`"""

    def __init__(self, run_folder: Path, files: Files) -> None:
        self._folder, self._files = run_folder / FOLDER, files

    def put(self, slot: Slot, task: Task, kills: Sequence[Mapping[str, Any]]) -> None:
        """Store the evidence against a slot: its task, and the workers that died of it.

        Raises:
          DataError: the disk refuses.
        """
        path = self._folder / f"{str(slot).replace('/', '_')}.json"
        text = json.dumps({"slot": str(slot), "task": asdict(task), "kills": list(kills)}, indent=1)
        with disk(path):
            self._folder.mkdir(exist_ok=True)
            write_atomically(path, text.encode(), self._files)


def quarantined(run_folder: Path) -> list[str]:
    """Return the slots in quarantine of a run, over all its lives."""
    return sorted(json.loads(path.read_bytes())["slot"] for path in (run_folder / FOLDER).glob("*.json"))

"""Why pools changed their size by themselves: one line of JSON for each decision, in the run folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.scaling import Decision, Load
from buffers.files import disk

__all__ = ["DecisionLog"]


@dataclass(frozen=True)
class DecisionLog:
    """`runs/<name>/scaling.jsonl`: time, pool, size before and after, why, and the load that was seen."""

    run_folder: Path

    @property
    def path(self) -> Path:
        return self.run_folder / "scaling.jsonl"

    def write(self, pool: str, decision: Decision, load: Load) -> None:
        """Append one decision.

        Raises:
          DataError: the disk refuses.
        """
        with disk(self.path), self.path.open("a") as file:
            file.write(json.dumps({"pool": pool, **asdict(decision), **asdict(load)}) + "\n")

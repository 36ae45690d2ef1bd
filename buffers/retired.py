"""What a run let go of on purpose: `ledger/retired.json`.

Groups are retired in the order of the task stream: of those below an ordinal, all were ended and old. Readers
leave out every row of a retired group, whether its file is gone already or not; so the record is written first,
and a crash before the files are deleted changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from buffers.files import write_atomically
from configs.errors import DataError

__all__ = ["Retired", "read_retired", "refuse_retired", "write_retired"]

FILE = "retired.json"


@dataclass(frozen=True, kw_only=True)
class Retired:
    """Which groups are retired, and what the books keep of them."""

    tasks_per_epoch: int = 1
    payloads_below: int = 0
    """Payloads of groups below this ordinal are retired."""
    ledger_below: int = 0
    """Events and scores of groups below this ordinal are retired; never above `payloads_below`."""
    through_seq: int = -1
    """Events up to this `seq` may be gone from the disk; all belong to retired groups."""
    version: int = 0
    """The newest weights that retired events went into."""
    trained_digest: str = ""
    """Of `version`: what later digests are chained to."""
    trained_groups: int = 0
    totals: Mapping[str, int] = field(default_factory=dict)
    """Attempts of retired groups, as the audit counts them."""

    def covers(self, epoch: int, task: int) -> bool:
        """Return whether the ledger's rows of a group are retired."""
        return epoch * self.tasks_per_epoch + task < self.ledger_below

    def __str__(self) -> str:
        if not self.payloads_below:
            return "nothing is retired"
        payloads = f"payloads of the first {self.payloads_below:,} groups are retired (retention.payload_updates)"
        events = f"; events and scores of the first {self.ledger_below:,} too (retention.ledger_updates)"
        return payloads + (events if self.ledger_below else "")


def read_retired(run_folder: Path) -> Retired:
    """Return what a run retired; nothing where there is no record.

    Raises:
      DataError: the record is unreadable.
    """
    path = run_folder / "ledger" / FILE
    if not path.exists():
        return Retired()
    try:
        return Retired(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is no record of what was retired: {error}; restore it from a copy") from error


def write_retired(run_folder: Path, record: Retired) -> None:
    """Replace the record atomically.

    Raises:
      DataError: the disk refused.
    """
    path = run_folder / "ledger" / FILE
    try:
        write_atomically(path, json.dumps(asdict(record), indent=1).encode())
    except OSError as error:
        raise DataError(f"{path}: {error}; free the disk, then resume the run") from error


def refuse_retired(run_folder: Path, purpose: str) -> None:
    """Refuse what needs every payload of a run.

    Raises:
      DataError: some were retired; says which.
    """
    retired = read_retired(run_folder)
    if retired.payloads_below:
        raise DataError(f"{run_folder}: {retired}, and {purpose} needs all of them; run with retention.*_updates=null")

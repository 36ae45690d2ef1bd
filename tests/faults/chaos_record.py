"""The record of a storm: every fault that was tried, whether it was seen, and how long the run took to get over it."""

from __future__ import annotations

import json
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.chaos_faults import FAULTS
from tests.faults.chaos_plan import PILLARS

__all__ = ["STARTING", "Blow", "Record"]

STARTING = "starting"
UPDATES = 2
"""That must follow a fault before the run is over it."""
PASSING = ("freeze", "slow", "partition")
"""Faults that end by themselves: recovery begins then, and else with the fault."""


@dataclass
class Blow:
    """A fault that was tried."""

    fault: str
    victim: str
    state: str
    """Of the run when it came."""
    effect: str
    """As it was seen; empty: it was not, and the fault does not count."""
    began_s: float
    over_s: float
    """Seconds after the start of the storm."""
    members: int
    """Of the victim's kind when the fault began."""
    ends: int
    """Times that the run had ended when the fault began."""
    ended: int = 0
    """And when it was over the fault."""
    versions: int | None = None
    """In the ledger when the run was first looked at after it."""
    recovered_s: float | None = None

    @property
    def since_s(self) -> float:
        return self.over_s if self.fault in PASSING else self.began_s

    @property
    def is_alone(self) -> bool:
        """Whether it met a run that was up, and no other fault ended that before it was over this one."""
        its_own = self.fault not in PASSING and self.victim in PILLARS
        return self.state != STARTING and self.ended - self.ends == its_own


@dataclass
class Record:
    """Of one storm; several threads write to it."""

    blows: list[Blow] = field(default_factory=list)
    log: Path | None = None
    """A line of JSON for every fault, when the run is over it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, blow: Blow) -> None:
        with self._lock:
            self.blows.append(blow)

    def look(self, now_s: float, versions: int, members: Mapping[str, int], ends: int = 0) -> None:
        """Take in how the run is; a fault is over when its victim's kind is whole and updates followed.

        Args:
          versions: in the ledger.
          members: living processes by kind, those that are built.
          ends: times that the run has ended.
        """
        with self._lock:
            for blow in self.open:
                if blow.versions is None:
                    blow.versions = versions
                if versions >= blow.versions + UPDATES and members.get(blow.victim, 0) >= blow.members:
                    blow.recovered_s, blow.ended = round(now_s - blow.since_s, 2), ends
                    self._write(blow)

    @property
    def open(self) -> list[Blow]:
        """Return those that the run is not over yet."""
        return [blow for blow in self.blows if blow.recovered_s is None]

    @property
    def seen(self) -> list[Blow]:
        return [blow for blow in self.blows if blow.effect]

    def _write(self, blow: Blow) -> None:
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(json.dumps(asdict(blow)) + "\n")

    def missing(self, names: Iterable[str], states: Iterable[str], least: int) -> list[str]:
        """Return the kinds of process and states that met fewer confirmed faults than `least`."""
        met = Counter(blow.victim for blow in self.seen) + Counter(blow.state for blow in self.seen)
        return [f"{what}: {met[what]}" for what in (*names, *states) if met[what] < least]

    def table(self) -> str:
        """Return Markdown: how many were seen, then median and longest seconds until the run was over those alone."""
        cells: dict[tuple[str, str], list[Blow]] = defaultdict(list)
        for blow in self.seen:
            for row in (blow.victim, "all"):
                for column in (blow.fault, "all"):
                    cells[row, column].append(blow)
        rows = [*sorted({blow.victim for blow in self.seen}), "all"]
        columns = [*FAULTS, "all"]
        head = ["| process | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        return "\n".join(head + [f"| {row} | {' | '.join(_cell(cells[row, c]) for c in columns)} |" for row in rows])


def _cell(blows: Sequence[Blow]) -> str:
    times = [blow.recovered_s for blow in blows if blow.recovered_s is not None and blow.is_alone]
    if not blows:
        return ""
    return f"{len(blows)}: {statistics.median(times):.1f} / {max(times):.1f}" if times else f"{len(blows)}"

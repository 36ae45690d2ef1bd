"""A run under a storm: started as a user starts it, looked at from outside, resumed whenever it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from buffers.segments import read_stream
from buffers.tables import VERSIONS
from configs.errors import RunError
from tests.faults.chaos_faults import BUILDING, pool_of
from tests.faults.live_run import ROOT

__all__ = ["Look", "StormyRun"]

PATIENCE_S = 300.0
"""For progress, an end, a start: everything a run says itself has a shorter deadline."""
FIRST_START_S = 900.0
"""For a start with a warm start, on a busy machine."""
BURIAL_S = 15.0
LOOK_S = 0.25
STARTED = 2
"""Versions of a process of the run after which it has started: a resume repeats the row of its first one."""


@dataclass(frozen=True)
class Look:
    """How a run was at a moment."""

    alive: bool = False
    versions: int = 0
    """Rows of weight versions in the ledger: an update makes one, and a resume, too."""
    victims: Mapping[str, Sequence[psutil.Process]] = field(default_factory=dict)
    """Living processes by whose they are: pools, driver, gcs_server, raylet."""
    members: Mapping[str, int] = field(default_factory=dict)
    """How many of them are built."""
    is_starting: bool = True


class StormyRun:
    """`launch.py run` in a process group of its own."""

    def __init__(self, folder: Path, words: Sequence[str], name: str = "stormy") -> None:
        """Start it.

        Args:
          words: of the command line, after `launch.py run`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.log = folder / name, folder / f"{name}.log"
        self.ends: list[str] = []
        """How its processes ended so far: exit code and last line."""
        self._known: set[psutil.Process] = set()
        self._words = [*words, f"name={name}", f"runs_folder={folder}"]
        self._process = self._start(*self._words)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        self._began, self._from, self._moved = time.monotonic(), self.versions, time.monotonic()
        self._seen = self._from
        with self.log.open("ab") as log:
            command = [sys.executable, "launch.py", "run", *words]
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def versions(self) -> int:
        """Rows of weight versions in the ledger."""
        if not (self.path / "ledger").exists():
            return 0
        return read_stream(self.path / "ledger", "versions", VERSIONS).num_rows

    @property
    def checkpoints(self) -> int:
        """Checkpoints that are whole."""
        return len(list((self.path / "checkpoints").glob("v*")))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def look(self) -> Look:
        """Look at it.

        Raises:
          RunError: it has neither moved nor ended for PATIENCE_S.
        """
        alive, versions = self.alive, self.versions
        if versions > self._seen:
            self._seen, self._moved = versions, time.monotonic()
        self._check(self._moved, "progress")
        found = [(pool_of(process), process) for process in self._processes()]
        victims: dict[str, list[psutil.Process]] = {}
        for pool, process in found:
            if pool:
                victims.setdefault(pool.removesuffix(BUILDING), []).append(process)
        return Look(alive, versions, victims, Counter(pool for pool, _ in found), versions < self._from + STARTED)

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            driver = psutil.Process(self._process.pid)
            found = [driver, *driver.children(recursive=True)]
            self._known |= set(found)
            return found
        return []

    def progress(self, updates: int = 3) -> float:
        """Wait for more versions; return the seconds it took.

        Raises:
          RunError: nothing for PATIENCE_S, or it ended.
        """
        began, wanted = time.monotonic(), self.versions + updates
        self._until(lambda: self.versions >= wanted or not self.alive, "progress")
        if not self.alive:
            raise RunError(f"the run ended: {self.said}")
        return time.monotonic() - began

    def checkpointed(self) -> None:
        """Wait until there is a checkpoint, without which a resume begins at the very beginning."""
        self._until(lambda: self.checkpoints > 0 or not self.alive, "checkpoint", FIRST_START_S)
        if not self.alive:
            raise RunError(f"the run ended: {self.said}")

    def resume(self) -> None:
        """Start the run again; its processes are buried."""
        self._process = self._start(*self._words, "resume=true")

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return the exit code."""
        self._process.send_signal(signal.SIGINT)
        self._until(lambda: not self.alive, "its end")
        return int(self._process.returncode)

    @property
    def said(self) -> str:
        return self.log.read_text()[-2000:] if self.log.exists() else ""

    def bury(self) -> None:
        """See the driver's end, wait for what its cluster still has, and kill what does not go by itself."""
        if self.alive:
            self._process.kill()
        code = self._process.wait(PATIENCE_S)
        self.ends.append(f"{code}: {(self.said.splitlines() or [''])[-1][:300]}")
        _, left = psutil.wait_procs(list(self._known), timeout=BURIAL_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._known.clear()

    def _until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        began = time.monotonic()
        while not condition():
            self._check(began, what, seconds)
            time.sleep(LOOK_S)

    def _check(self, began: float, what: str, seconds: float = PATIENCE_S) -> None:
        if time.monotonic() - began > seconds:
            raise RunError(f"no {what} within {seconds:g} s: {self.said}")

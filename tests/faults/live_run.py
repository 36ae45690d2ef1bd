"""`launch.py run` on Ray as a user starts it, to be disturbed by tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from buffers.records.audit import audit
from buffers.records.query import query

__all__ = ["ROOT", "LiveRun", "running"]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 300.0


class LiveRun:
    """`launch.py run` as a user starts it, and `launch.py status` and its like as other processes."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.path = folder / "live"
        self._log = folder / "log.txt"
        self._words = [
            "configs/smoke.yaml", "name=live", f"runs_folder={folder}", "updates=100000", "eval.tasks=0",
            "checkpoint.every=0", "cluster.heartbeat_s=0.2", "warm_start.updates=0", "logging.report=false",
            "rollout.message_samples=8", "rollout.max_delay_s=0.5",
            "rewards.components.correct.component={target: 'tests.faults.slow_reward:SlowLength'}", *words,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "launch.py", "run", *self._words, *words]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def command(self, *words: str) -> Any:
        """Run `launch.py VERB RUN ... --json` and return what it prints."""
        verb, *rest = words
        done = subprocess.run(
            [sys.executable, "launch.py", verb, str(self.path), *rest, "--json"],
            cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """Return the first true answer of `condition`; fail with the run's log at the deadline."""
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends:
            if answer := condition():
                return answer
            assert self.process is not None and self.process.poll() is None, f"the run ended:\n{self.log}"
            time.sleep(0.2)
        raise AssertionError(f"{what} did not happen within {DEADLINE_S:g} s:\n{self.log}")

    def finish(self) -> int:
        """Wait for the process; return its exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    @property
    def log(self) -> str:
        return self._log.read_text()[-4000:]

    @property
    def trained(self) -> int:
        """Samples trained so far, from the ledger."""
        if not (self.path / "ledger").exists():
            return 0
        return int(self.sql("SELECT count(*) AS n FROM events WHERE event = 'trained'")[0]["n"])

    def sql(self, text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = query(self.path, text).to_pylist()
        return rows

    def progress(self) -> None:
        """Wait until 64 more samples are trained."""
        before = self.trained
        self.wait("training", lambda: self.trained >= before + 64)

    def check_books(self) -> None:
        books = audit(self.path)
        assert books.balanced, books.problems
        twice = self.sql(
            "SELECT source, epoch, task, sample, sum(CASE event WHEN 'trained' THEN 1 ELSE -1 END) AS n FROM events "
            "WHERE event IN ('trained', 'rolled_back') GROUP BY ALL HAVING n > 1"
        )
        assert twice == []

    def pids(self, pool: str) -> dict[str, int]:
        """Return the process id of each member of a pool."""
        found: dict[str, int] = self.command("status")["pools"][pool]["pids"]
        return found


@contextmanager
def running(folder: Path, *words: str, first: tuple[str, ...] = ()) -> Iterator[LiveRun]:
    """A run after its first update, which is ended whatever happens to its test.

    Args:
      first: further words, of the first start alone.
    """
    run = LiveRun(folder, *words)
    run.start(*first)
    try:
        run.wait("the first update", lambda: run.trained)
        yield run
    finally:
        if run.process is not None and run.process.poll() is None:
            run.process.kill()
            run.process.wait()

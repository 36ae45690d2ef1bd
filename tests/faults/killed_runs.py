"""Runs in processes of their own that are killed, resumed and compared with one that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buffers.digest import chain_digest
from buffers.records.audit import audit
from buffers.records.lineage import SurvivingLineage
from buffers.records.query import query
from tests.faults.kill_at import Cut

__all__ = ["KILLED", "LANES", "Run", "check_nothing_is_lost", "kill_at_random", "last_words"]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0
KILLED = -9

# The heavy imports happen once, in the process that all runs are forked from.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["launch", "transformers", "buffers.host", "actors.worker", "learners.host", "duckdb"])

TINY = (
    "configs/smoke.yaml", "name=run", "cluster.address=local", "updates=6", "checkpoint.every=2", "eval.tasks=0",
    "batch.prompts_per_update=4", "warm_start.updates=2", "warm_start.examples=64", "buffer.segment_bytes=6000",
    "rewards.components.correct.component={target: length_penalty, target_tokens: 2}",
    "logging.report=false", "logging.tensorboard=false", "logging.view=plain", "cluster.progress_deadline_s=60",
)  # fmt: skip

LANES = (
    "configs/cartpole.yaml", "name=run", "cluster.address=local", "updates=6", "checkpoint.every=2", "eval.every=0",
    "environment.eval_episodes=0", "environment.lanes=6", "environment.fragments_per_update=6",
    "environment.fragment_length=12", "rollout.slots=16", "buffer.segment_bytes=20000", "logging.report=false",
    "logging.tensorboard=false", "logging.view=plain", "cluster.progress_deadline_s=60",
)  # fmt: skip
"""Twelve steps are less than an episode of CartPole: most of them go on from fragment to fragment."""

LAST_WORDS = """
SELECT slot, last.event AS event, last.reason AS reason FROM (
    SELECT concat_ws(':', source, epoch, task, sample) AS slot,
        arg_max({event: event::VARCHAR, reason: reason}, seq) AS last FROM events GROUP BY slot)
"""


@dataclass(frozen=True)
class Run:
    """A run folder and the words that every start of it shares."""

    folder: Path
    words: Sequence[str] = ()
    base: Sequence[str] = TINY
    """The preset and its changes that `words` are put on."""

    @property
    def path(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def play(self, *words: str, cut: Cut | None = None, fault: Cut | None = None) -> int:
        """Run `launch.py run` to its end, whatever that is; return the exit code, -9 when killed."""
        every = [*self.base, f"runs_folder={self.folder}", *self.words, *words]
        self.folder.mkdir(exist_ok=True)
        faults = [f for f in (cut, fault) if f is not None]
        process = _context.Process(target=_live, args=(every, str(self.folder / "log.txt"), faults))
        process.start()
        process.join(DEADLINE_S)
        assert process.exitcode is not None, f"the run did not end within {DEADLINE_S:g} s:\n{self.log[-3000:]}"
        return int(process.exitcode)

    def resume(self, *words: str, cut: Cut | None = None, fault: Cut | None = None) -> int:
        return self.play("resume=true", *words, cut=cut, fault=fault)

    def sql(self, text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = query(self.path, text).to_pylist()
        return rows

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "summary.json").read_text()))

    def check_books(self) -> None:
        """The audit balances; nothing is trained twice; no lineage or version has two owners."""
        books = audit(self.path)
        assert books.balanced, books.problems
        slots = [slot for batch in self.batches() for slot in batch]
        assert len(slots) == len(set(slots)), "a slot was trained twice in the surviving lineage"
        twice = self.sql("SELECT model, lineage, version FROM versions GROUP BY ALL HAVING count(*) > 1")
        assert twice == [], "a version has two rows"
        epochs = self.sql("SELECT lineage, min(run_epoch) AS a, max(run_epoch) AS b FROM events GROUP BY 1 ORDER BY 1")
        assert all(row["a"] == row["b"] for row in epochs), "two epochs wrote one lineage"
        assert [row["a"] for row in epochs] == sorted({row["a"] for row in epochs}), "epochs do not rise"

    def batches(self) -> list[list[str]]:
        """Return the slots that each version of the surviving lineage was trained on, in order of identity."""
        lineage = SurvivingLineage.load(self.path)
        slots = {row["id"]: row["slot"] for row in self.sql(
            "SELECT DISTINCT id, concat_ws(':', source, epoch, task, sample) AS slot FROM events"
        )}  # fmt: skip
        return [sorted(slots[name] for name in batch) for batch in lineage.batches]

    def fingerprint(self) -> dict[str, Any]:
        """Return what must not depend on kills: hashes by version, slots and their digests, the last checkpoint.

        Trajectory ids name the attempt, which a kill raises; so digests are taken over slots.
        """
        lineage, batches = SurvivingLineage.load(self.path), self.batches()
        rows = self.sql("SELECT lineage, version, weights_sha256 FROM versions")
        hashes = {(row["lineage"], row["version"]): row["weights_sha256"] for row in rows}
        digest, digests = "", []
        for batch in batches:
            digests.append(digest := chain_digest(digest, batch))
        manifest = json.loads((sorted((self.path / "checkpoints").glob("v*"))[-1] / "manifest.json").read_text())
        return {
            "weights": [hashes[row.lineage, row.version] for row in lineage.chain],
            "slots": batches,
            "digests": digests,
            "checkpoint": {name: sha for name, sha in manifest.items() if name.endswith(".safetensors")},
        }


def _live(words: list[str], log: str, faults: Sequence[Cut]) -> None:
    """The process of a run: in its own group, its output in a file."""
    import launch

    os.setsid()
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for fault in faults:
        fault.arm()
    sys.exit(launch.main(["run", *words]))


def last_words(run: Run) -> dict[str, tuple[str, str]]:
    """Return the last event and its reason of every slot."""
    return {row["slot"]: (row["event"], row["reason"]) for row in run.sql(LAST_WORDS)}


def check_nothing_is_lost(run: Run, at_the_kill: dict[str, tuple[str, str]]) -> None:
    """Slots that had no end when the run was killed are trained; the only end beside that is a stated one."""
    run.check_books()
    now = last_words(run)
    in_flight = {slot for slot, (event, _) in at_the_kill.items() if event not in ("trained", "dropped", "failed")}
    assert in_flight, "nothing was in flight: the test proved nothing"
    assert {slot: now[slot] for slot in in_flight if now[slot][0] != "trained"} == {}
    assert {reason for event, reason in now.values() if event != "trained"} <= {"run_ended"}


def kill_at_random(run: Run, *, seed: int, times: int) -> None:
    """Start a run, or go on, and kill all of its processes at an instant soon after it first trained; several times."""
    rng = random.Random(seed)
    for attempt in range(times):
        process = launch_process(run, "updates=100000", *(["resume=true"] if attempt else []))
        wait_for_training(run, process, of_lineage=attempt)
        time.sleep(2 * rng.random())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)


def launch_process(run: Run, *words: str) -> subprocess.Popen[bytes]:
    """Start `python launch.py run` as a user does, in a process group of its own."""
    command = [sys.executable, "launch.py", "run", *run.base, f"runs_folder={run.folder}", *run.words, *words]
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def wait_for_training(run: Run, process: Any, of_lineage: int) -> None:
    ends = time.monotonic() + DEADLINE_S
    trained = f"SELECT count(*) AS n FROM events WHERE event = 'trained' AND lineage = {of_lineage}"
    while not (run.path / "ledger").exists() or not run.sql(trained)[0]["n"]:
        assert process.poll() is None and time.monotonic() < ends, run.log[-3000:]
        time.sleep(0.1)

"""A small finished run, written by the real ledger: a crash, a resume, a drop, a failure and replayed training.

Two samples per task, three tasks per epoch, four groups. Version 2 was first made by epoch 1 of the run,
which crashed; the resume from version 1 made it again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from buffers.digest import chain_digest
from buffers.identity import Slot, trajectory_id
from buffers.ledger import Event, EventKind, Ledger
from buffers.run_folder import RunFolder
from buffers.schema import TRAJECTORY, to_table
from buffers.scores import Score
from buffers.segments import SegmentWriter
from buffers.trajectory import Trajectory

CURSOR = {
    "source": "add",
    "fingerprint": "f",
    "first": 0,
    "groups_issued": 4,
    "num_generations": 2,
    "tasks_per_epoch": 3,
}
Try = tuple[Slot, int]


def group(ordinal: int, attempt: int = 0) -> list[Try]:
    return [(Slot("add", ordinal // 3, ordinal % 3, sample), attempt) for sample in range(2)]


class Epoch:
    """One epoch of the run: what a buffer would write."""

    def __init__(self, folder: RunFolder, lineage: int) -> None:
        self.ledger = Ledger(folder.path / "ledger", run_epoch=folder.epoch, lineage=lineage, commit_interval_s=0)
        self.payloads = SegmentWriter(
            folder.path / "trajectories", "trajectories", TRAJECTORY, run_epoch=folder.epoch, commit_interval_s=0
        )

    def record(self, kind: EventKind, tries: list[Try], version: int | None = None, reason: str = "") -> None:
        self.ledger.record([Event(kind, *a_try, version=version, reason=reason) for a_try in tries])

    def generate(self, tries: list[Try]) -> None:
        self.payloads.append(to_table([trajectory(*a_try) for a_try in tries])).result(10)
        self.record(EventKind.GENERATED, tries)
        self.ledger.record_scores([(trajectory_id(*a_try), Score(value=1.0, component="exact")) for a_try in tries])
        self.record(EventKind.SCORED, tries)

    def train(self, tries: list[Try], version: int, digest: str, replayed: list[Try] | None = None) -> str:
        for kind in (EventKind.BATCHED, EventKind.TRAINED):
            self.record(kind, replayed or [], version, "replay")
            self.record(kind, tries, version)
        batch = [trajectory_id(*a_try) for a_try in [*tries, *(replayed or [])]]
        digest = chain_digest(digest, batch)
        self.ledger.record_version(
            version=version + 1, parent=version, weights_sha256="w", trained_digest=digest, num_trained=len(batch)
        )
        return digest

    def close(self) -> None:
        self.payloads.close()
        self.ledger.close()


def trajectory(slot: Slot, attempt: int) -> Trajectory:
    return Trajectory(
        slot=slot,
        attempt=attempt,
        tokens=np.arange(3, dtype=np.int32),
        kinds=np.array([0, 1, 1], np.uint8),
        logprobs=np.zeros(3, np.float32),
        versions=[(0, 2)],
        prompt="1+1=",
        completion="2",
    )


def record_run(path: Path, status: str = "finished") -> Path:
    """Write the run and return its folder."""
    with RunFolder.create(path) as folder:
        first = Epoch(folder, lineage=0)
        for ordinal in range(3):
            first.record(EventKind.ADMITTED, group(ordinal))
            first.generate(group(ordinal))
        first.ledger.record_version(version=0, parent=None, weights_sha256="w", trained_digest="", num_trained=0)
        digest = first.train(group(0), 0, "")
        checkpoint(path, 1, digest, 2)
        first.train(group(1), 1, digest, replayed=group(0))
        first.ledger.flush()  # and now the process is killed
    with RunFolder.open(path) as folder:
        second = Epoch(folder, lineage=1)
        second.record(EventKind.ROLLED_BACK, group(1), 1, "restart")
        second.record(EventKind.DROPPED, group(2), reason="restart")
        for ordinal in (1, 2):
            second.record(EventKind.ADMITTED, group(ordinal, 1))
            second.generate(group(ordinal, 1))
        second.record(EventKind.ADMITTED, group(3))
        digest = second.train(group(1, 1), 1, digest)
        digest = second.train(group(2, 1), 2, digest, replayed=group(1, 1))
        checkpoint(path, 3, digest, 8)
        lost, late = group(3)
        second.record(EventKind.DROPPED, [lost], reason="worker_lost")
        second.record(EventKind.ADMITTED, [(lost[0], 1)])
        second.record(EventKind.FAILED, [(lost[0], 1)], reason="prompt too long")
        second.record(EventKind.DROPPED, [late], reason="run_ended")
        second.ledger.write_cursor(CURSOR)
        second.close()
        folder.write_run({"status": status})
    return path


def checkpoint(path: Path, version: int, digest: str, count: int) -> None:
    folder = path / "checkpoints" / f"v{version}"
    folder.mkdir()
    progress = {"version": version, "trained_digest": digest, "trained_count": count}
    (folder / "state.json").write_text(json.dumps({"progress": progress, "epoch": version}))

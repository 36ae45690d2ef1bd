"""A stream buffer with real files and a made-up world around it: workers that answer in any order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from buffers.batch import Batch
from buffers.digest import chain_digest
from buffers.filters import Filter
from buffers.ledger import Ledger
from buffers.run_folder import RunFolder
from buffers.samplers import Fifo, Sampler
from buffers.schema import to_table
from buffers.scores import Score, ScoreStatus, StepRewards
from buffers.segments import SegmentWriter
from buffers.stream import StreamBuffer
from buffers.tables import TRAJECTORY
from buffers.trajectory import Task, Trajectory, Unit
from configs.language import BatchConfig
from configs.stream import BufferConfig


@dataclass
class Tasks:
    """An endless task stream."""

    name: str = "toy"
    fingerprint: str = "toy"
    tasks_per_epoch: int = 1000
    cursor: int = 0

    def next_group(self) -> tuple[int, int, Task]:
        self.cursor += 1
        return self.task_at(self.cursor - 1)

    def task_at(self, ordinal: int) -> tuple[int, int, Task]:
        epoch, position = divmod(ordinal, self.tasks_per_epoch)
        return epoch, position, Task(source=self.name, index=position, prompt=f"{position}?", answer="1")

    def seek(self, ordinal: int) -> None:
        self.cursor = ordinal


@dataclass
class Verdict:
    total: float | None
    detail: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)
    steps: StepRewards | None = None


def verdict(total: float | None) -> Verdict:
    """A verdict of one component; None is a time-out."""
    if total is None:
        return Verdict(None, "component timed out", {"r": Score.invalid(ScoreStatus.TIMEOUT, "late")})
    return Verdict(total, "", {"r": Score(value=total)})


def trajectory(unit: Unit, versions: Sequence[tuple[int, int]]) -> Trajectory:
    """One sampled token per count in `versions`, after one prompt token."""
    sampled = sum(count for _, count in versions)
    return Trajectory(
        slot=unit.slot,
        attempt=unit.attempt,
        tokens=np.arange(1 + sampled, dtype=np.int32),
        kinds=np.array([0] + [1] * sampled, np.uint8),
        logprobs=np.zeros(1 + sampled, np.float32),
        versions=list(versions),
        prompt=unit.task.prompt,
        completion="1",
        answer="1",
    )


class Scene:
    """The buffer, its files, and helpers that play worker and reward."""

    def __init__(
        self,
        folder: Path,
        *,
        groups: int = 2,
        members: int = 2,
        max_staleness: int = 1,
        policy: str = "wait",
        sampler: Sampler | None = None,
        filters: Sequence[Filter] = (),
        **settings: Any,
    ) -> None:
        self.now, self.members = 0.0, members
        self.folder = RunFolder.create(folder)
        self.tasks = Tasks()
        self.ledger = Ledger(folder / "ledger", run_epoch=self.folder.epoch, lineage=0, fsync=False)
        self.payload_log = SegmentWriter(
            folder / "trajectories", "trajectories", TRAJECTORY, run_epoch=self.folder.epoch, fsync=False,
            segment_bytes=1 << 20, commit_interval_s=0.001,
        )  # fmt: skip
        self.buffer = StreamBuffer(
            config=BufferConfig(staleness_policy=policy, **settings),
            batch=BatchConfig(prompts_per_update=groups, num_generations=members),
            max_staleness=max_staleness,
            tasks=self.tasks,
            sampler=sampler or Fifo(),
            filters=filters,
            ledger=self.ledger,
            clock=lambda: self.now,
        )
        self.digest = ""
        self._record_version(0, None, 0)

    def deliver(self, units: Sequence[Unit], *versions: tuple[int, int]) -> pa.Table | None:
        """Bring finished trajectories; without `versions`, two tokens of the present version."""
        runs = versions or ((self.buffer.version, 2),)
        table = to_table([trajectory(unit, runs) for unit in units])
        kept = self.buffer.accept(table)
        if kept is not None:
            self.payload_log.append(kept).result(10)
            self.buffer.generated(kept.column("id").to_pylist())
        return kept

    def score(self, units: Sequence[Unit], rewards: Sequence[float | None]) -> None:
        ids = [f"{u.slot}.{u.attempt}.0" for u in units]
        self.buffer.scored({i: verdict(r) for i, r in zip(ids, rewards, strict=True)})

    def finish(self, units: Sequence[Unit], *versions: tuple[int, int]) -> None:
        """Deliver and score with alternating rewards."""
        self.deliver(units, *versions)
        self.score(units, [float(u.slot.sample % 2) for u in units])

    def train(self) -> Batch:
        """Consume a batch; fails where none is ready."""
        batch = self.buffer.compose()
        assert batch is not None, self.buffer.awaiting()
        self.commit(batch)
        return batch

    def commit(self, batch: Batch) -> None:
        """Play the learner: an update and its version row."""
        self.buffer.batched(batch)
        self.buffer.commit(batch)
        self.digest = chain_digest(self.digest, batch.ids)
        self._record_version(batch.version + 1, batch.version, len(batch.rows))

    def _record_version(self, version: int, parent: int | None, num_trained: int) -> None:
        self.ledger.record_version(
            version=version, parent=parent, weights_sha256="", trained_digest=self.digest, num_trained=num_trained
        )

    def close(self) -> None:
        """End the run as the host does."""
        self.buffer.drain("run_ended")
        self.ledger.write_cursor({
            "source": self.tasks.name, "groups_issued": self.buffer.issued_groups, "first": 0,
            "num_generations": self.members, "tasks_per_epoch": self.tasks.tasks_per_epoch,
        })  # fmt: skip
        self.payload_log.close()
        self.ledger.close()
        self.folder.write_run({"status": "finished"})
        self.folder.close()


def shuffled(units: Sequence[Unit], rng: random.Random) -> list[Unit]:
    """Return the units in a random order."""
    return rng.sample(list(units), len(units))

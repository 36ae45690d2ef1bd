"""A stream buffer on a failing disk, driven step by step: what the state machine and its model act on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sim_disk import Disk, Port
from sim_parts import task_stream

from buffers.batch import Batch
from buffers.digest import chain_digest
from buffers.groups import MemberState
from buffers.ledger import Ledger
from buffers.recovery import recover
from buffers.run_folder import RunFolder
from buffers.samplers import Fifo
from buffers.schema import to_table
from buffers.scores import Score, ScoreStatus
from buffers.segments import SegmentWriter
from buffers.stream import StreamBuffer
from buffers.tables import TRAJECTORY
from buffers.trajectory import Trajectory, Unit
from configs.language import BatchConfig
from configs.stream import BufferConfig
from rewards.combine import Verdict

__all__ = ["MEMBERS", "Store"]

GROUPS, MEMBERS, MAX_ATTEMPTS, DEADLINE_S = 2, 2, 3, 10.0


class HeldCommits:
    """Commits when told, or when it is urgent."""

    def __init__(self, commit: Callable[[], None], end: Callable[[], None], interval_s: float, name: str) -> None:
        self.commit, self._end, self.name = commit, end, name

    def request(self, *, urgent: bool) -> None:
        if urgent:
            self.commit()

    def finish(self, deadline_s: float) -> bool:
        self.commit()
        self._end()
        return True


class Store:
    """One run folder through crashes; every life has its own buffer, ledger and payload log."""

    def __init__(self, path: Path, *, max_staleness: int, policy: str) -> None:
        self.path, self.max_staleness, self.policy = path, max_staleness, policy
        self.disk, self.now, self.checkpoint_version, self.digests = Disk(), 0.0, 0, {0: ""}
        self.folder = RunFolder.create(path)
        self.open()
        self.record_version(0, None, 0)

    def open(self) -> None:
        """Begin a life at the newest checkpoint, as `buffers.host.build` does."""
        self.port, self.commits = Port(self.disk), {}
        recovered, tasks = recover(self.path, version=self.checkpoint_version), task_stream(5, 0)
        settings = {"run_epoch": self.folder.epoch, "files": self.port, "segment_bytes": 4000}
        self.ledger = Ledger(self.path / "ledger", lineage=recovered.lineage, commits=self._commits, **settings)
        self.payload_log = SegmentWriter(
            self.path / "trajectories", "trajectories", TRAJECTORY, commits=self._commits, **settings
        )
        self.tasks = tasks
        self.buffer = StreamBuffer(
            config=BufferConfig(
                staleness_policy=self.policy, max_attempts=MAX_ATTEMPTS, group_deadline_s=DEADLINE_S,
                max_failed_groups=10_000,
            ),
            batch=BatchConfig(prompts_per_update=GROUPS, num_generations=MEMBERS),
            max_staleness=self.max_staleness, tasks=tasks, sampler=Fifo(), filters=[], ledger=self.ledger,
            clock=lambda: self.now, version=self.checkpoint_version, trained_groups=recovered.trained_groups,
        )  # fmt: skip
        recovered.replay_into(self.buffer, self.ledger, tasks)

    def _commits(self, *arguments: Any) -> HeldCommits:
        commits = HeldCommits(*arguments)
        self.commits[commits.name] = commits
        return commits

    def deliver(self, unit: Unit, version: int) -> None:
        """Bring one trajectory, its payload stored between its admission and its row, as the intake does."""
        table = self.buffer.accept(to_table([trajectory(unit, version)]))
        if table is None:
            return
        ids = table["id"].to_pylist()
        if not all(admitted.done() for admitted in self.buffer.admissions(ids)):
            self.commits["segments-events"].commit()
        self.payload_log.append(table)
        self.commits["segments-trajectories"].commit()
        self.buffer.generated(ids)

    def score(self, unit: Unit, reward: float | None) -> None:
        score = Score(value=reward) if reward is not None else Score.invalid(ScoreStatus.ERROR, "broken")
        verdict = Verdict(scores={"r": score}, total=reward, detail="" if reward is not None else "broken")
        self.buffer.scored({f"{unit.slot}.{unit.attempt}.0": verdict})

    def train(self) -> Batch | None:
        batch = self.buffer.compose()
        if batch is not None:
            self.buffer.batched(batch)
            self.buffer.commit(batch)
            self.digests[batch.version + 1] = chain_digest(self.digests[batch.version], batch.ids)
            self.record_version(batch.version + 1, batch.version, len(batch.rows))
        return batch

    def record_version(self, version: int, parent: int | None, count: int) -> None:
        self.ledger.record_version(
            version=version, parent=parent, weights_sha256="", trained_digest=self.digests[version], num_trained=count
        )

    def checkpoint(self) -> None:
        """Remember the present version, once everything up to it is on disk."""
        self.payload_log.flush()
        self.ledger.flush()
        self.checkpoint_version = self.buffer.version

    def crash(self, rng: random.Random) -> None:
        """Cut the power, and begin the next life on what the disk kept."""
        self.port.off = True
        self.disk.tear(rng)
        self.folder.begin_epoch()
        self.open()

    def end_life(self) -> None:
        """Drain and close."""
        self.buffer.drain("run_ended")
        self.ledger.write_cursor({
            "source": self.tasks.name, "groups_issued": self.buffer.issued_groups, "first": 0,
            "num_generations": MEMBERS, "tasks_per_epoch": self.tasks.tasks_per_epoch,
        })  # fmt: skip
        self.payload_log.close()
        self.ledger.close()

    def states(self) -> dict[str, str]:
        """Return slot -> pending | leased | received | done of every live group."""
        buffer = self.buffer
        found = {str(m.slot): m.state.value for g in buffer._groups.values() for m in g.members}
        for _, (epoch, position, _), _ in buffer._tasks.reopening:
            names = (f"{self.tasks.name}:{epoch}:{position}:{sample}" for sample in range(MEMBERS))
            found |= dict.fromkeys(names, MemberState.PENDING.value)
        return found


def trajectory(unit: Unit, version: int) -> Trajectory:
    return Trajectory(
        slot=unit.slot, attempt=unit.attempt, tokens=np.array([1, 2], np.int32), kinds=np.array([0, 1], np.uint8),
        logprobs=np.zeros(2, np.float32), versions=[(version, 1)], prompt=unit.task.prompt, completion="1",
    )  # fmt: skip

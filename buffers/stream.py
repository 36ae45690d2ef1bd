"""The stream buffer: the state machine between the workers and the learner.

It admits groups, leases their slots and composes batches under the staleness bound; what workers bring is
`buffers.live_groups`' part. It is a plain object without waits; `buffers.host` adds the waiting,
`buffers.intake` the loops.

    lease -> (accept -> generated -> scored) -> compose -> batched -> commit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from buffers.admission import group_capacity, may_admit
from buffers.affinity import Affinity, Anywhere
from buffers.backlog import Backlog
from buffers.batch import Batch
from buffers.choice import choose
from buffers.filters import Filter
from buffers.groups import Group, Member, MemberState
from buffers.identity import Slot
from buffers.ledger import EventKind, Ledger
from buffers.live_groups import LiveGroups
from buffers.quarantine import Quarantine
from buffers.samplers import BufferView, Sampler
from buffers.schema import with_rewards
from buffers.scores import INTRINSIC, valid_vector
from buffers.staleness import age
from buffers.task_queue import TaskCursor, TaskQueue
from buffers.trajectory import Task, Unit
from configs.errors import RunError
from configs.language import BatchConfig
from configs.stream import BufferConfig

__all__ = ["StreamBuffer"]


class StreamBuffer(LiveGroups):
    """Live groups, who may work on them, and the batches made of them."""

    def __init__(
        self,
        *,
        config: BufferConfig,
        batch: BatchConfig,
        max_staleness: int,
        tasks: TaskCursor,
        sampler: Sampler,
        filters: Sequence[Filter],
        ledger: Ledger,
        clock: Callable[[], float],
        version: int = 0,
        trained_groups: int = 0,
        affinity: Affinity | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        super().__init__(
            config, source=tasks.name, num_generations=batch.num_generations, filters=filters, ledger=ledger,
            clock=clock, quarantine=quarantine,
        )  # fmt: skip
        self.version = version
        self.draining = False
        self._batch, self._max_staleness = batch, max_staleness
        self._tasks, self._sampler = TaskQueue(tasks), sampler
        self._affinity = affinity or Anywhere()
        self._trained: list[Group] = []
        """Kept for replay."""
        self._trained_groups = trained_groups
        self.backlog = Backlog(clock)
        self._fresh_later = batch.prompts_per_update - sampler.most(batch.prompts_per_update)

    # -- admission and leases -------------------------------------------------------------------

    def restore(self, ordinal: int, group: tuple[int, int, Task], attempts: Mapping[int, int]) -> None:
        """Have a group reopened after a restart; `attempts` holds the last attempt of each sample.

        It is admitted in its turn, before new groups: a checkpoint can be older than what was in flight by
        several versions' groups, and all at once they would be too many for the staleness bound.
        """
        self._tasks.reopen(ordinal, group, attempts)

    def workers(self, names: Sequence[str]) -> None:
        """These workers are there now; lanes are shared out among them."""
        self._affinity.workers(names)

    def accept(self, table: pa.Table) -> pa.Table | None:
        kept = super().accept(table)
        if kept is not None:
            self._affinity.brought(kept)
        return kept

    def fail(self, slot: Slot, attempt: int, reason: str, retry: bool) -> None:
        if self._leased(slot, attempt) is not None:
            self._affinity.failed(slot)
        super().fail(slot, attempt, reason, retry)

    def lose(self, worker: str, fault: str = "") -> int:
        self._affinity.lost(worker)
        return super().lose(worker, fault)

    def lease(self, worker: str, count: int) -> list[Unit]:
        """Hand out up to `count` slots, admitting whole groups while the formula allows."""
        if self.draining or self.futile:
            return []
        self.backlog.may_begin(self._could_begin)
        units = self._take_pending(worker, count)
        while len(units) < count and self._may_admit():
            passed_over = len(self._pending)
            self._admit()
            units += self._take_pending(worker, count - len(units), passed_over)
        self.backlog.begun(len(units))
        return units

    def _take_pending(self, worker: str, count: int, since: int = 0) -> list[Unit]:
        """Lease the first `count` slots from `since` on that the worker may take; return them."""
        taken: list[Unit] = []
        left = self._pending[:since]
        held = self._isolated(worker)
        for member in self._pending[since:]:
            fits = len(taken) < count and self._affinity.may_take(member, worker)
            if fits and self._suspects.may_join(member.slot, held, worker):
                taken.append(self._hand_out(member, worker))
                held.append(member.slot)
            else:
                left.append(member)
        self._pending = left
        return taken

    def _isolated(self, worker: str) -> list[Slot]:
        """Return what a worker holds, where slots are suspects; it may now be the one that takes these alone."""
        if not self._suspects:
            return []
        leases = self.leases()
        mine = (member.slot for member in self._pending if self._affinity.may_take(member, worker))
        self._suspects.reserve(worker, mine, {*leases, worker})
        return leases.get(worker, [])

    def _hand_out(self, member: Member, worker: str) -> Unit:
        trail = self._affinity.taken(member, worker)
        member.state, member.worker, member.floor = MemberState.LEASED, worker, self.version
        group = self._groups[member.slot.group]
        if group.started_at < 0:
            group.started_at = self._clock()
        return Unit(slot=member.slot, attempt=member.attempt, task=group.task, min_version=self.version, trail=trail)

    def _admit(self) -> None:
        self._open(*self._tasks.take())

    @property
    def _could_begin(self) -> int:
        """Slots that workers with enough room would be given now."""
        room = group_capacity(
            max_staleness=self._max_staleness,
            trained_groups=self._trained_groups,
            fresh_next=self._fresh_next,
            fresh_later=self._fresh_later,
        )
        groups = max(0, room - self._trained_groups - len(self._groups)) if self._may_admit() else 0
        return len(self._pending) + groups * self._num_generations

    def _may_admit(self) -> bool:
        return may_admit(
            live_groups=self._trained_groups + len(self._groups),
            trained_groups=self._trained_groups,
            max_staleness=self._max_staleness,
            fresh_next=self._fresh_next,
            fresh_later=self._fresh_later,
            held_bytes=self.payloads.held_bytes,
            max_bytes=self._config.max_bytes,
        )

    @property
    def _fresh_next(self) -> int:
        """Groups that the next update takes and that were never trained before."""
        size = self._batch.prompts_per_update
        return size - len(self._sampler.again(self._trained, self.version, size))

    # -- batches --------------------------------------------------------------------------------

    def compose(self) -> Batch | None:
        """Choose the batch to be consumed at the present version, or None while it must wait.

        Raises:
          RunError: every group failed since the start; the message says why the last one did.
        """
        if self.futile:
            raise RunError(self.futile)
        drops = self._config.staleness_policy == "drop"
        if drops:
            self._drop_stale()
        bound = None if drops else self._max_staleness
        chosen = choose(self._view(), self._sampler, max_staleness=bound, fresh_later=self._fresh_later)
        if chosen is None:
            return None
        rows = tuple(row for group in chosen for row in group.valid_rows)
        return Batch(version=self.version, groups=tuple(chosen), rows=rows)

    def table(self, batch: Batch) -> pa.Table:
        """Return the batch as the learner reads it, see `with_rewards`."""
        return with_rewards(
            self.payloads.gather(batch.rows),
            [batch.reward(row) for row in batch.rows],
            steps=[batch.steps(row) for row in batch.rows],
            intrinsic=[valid_vector(batch.scores(row).get(INTRINSIC)) for row in batch.rows],
        )

    def batched(self, batch: Batch) -> None:
        """The learner took the batch."""
        for group in batch.groups:
            self.load.begun(group.key)
        self._ledger.record(batch.events(EventKind.BATCHED))

    def commit(self, batch: Batch) -> None:
        """The update that consumed the batch is published: the version rises by one."""
        self._ledger.record(batch.events(EventKind.TRAINED))
        for group in batch.groups:
            if group.times_trained == 0:
                self._trained_groups += 1
                del self._groups[group.key]
                self._trained.append(group)
            group.times_trained += 1
            group.trained_version = batch.version
        self.version = batch.version + 1
        self._forget_trained()
        self.backlog.may_begin(self._could_begin)

    def drain(self, reason: str) -> None:
        """Drop everything that is not trained; nothing is in flight afterwards."""
        self.draining = True
        while self._tasks.reopening:
            self._admit()
        for group in list(self._groups.values()):
            self._drop(group, reason)
        for group in self._trained:
            self.payloads.release(group.valid_rows)
        self._trained.clear()

    # -- what others may know -------------------------------------------------------------------

    @property
    def issued_groups(self) -> int:
        return self._tasks.issued

    @property
    def leased(self) -> int:
        return sum(m.state is MemberState.LEASED for g in self._groups.values() for m in g.members)

    def leases(self) -> dict[str, list[Slot]]:
        """Return worker -> the slots that it holds."""
        found: dict[str, list[Slot]] = {}
        for member in (m for g in self._groups.values() for m in g.members if m.state is MemberState.LEASED):
            found.setdefault(member.worker, []).append(member.slot)
        return found

    def awaiting(self) -> str:
        """Say what the next batch waits for, by id."""
        ready = sum(g.complete for g in self._groups.values())
        missing = [str(m.slot) for g in self._groups.values() for m in g.members if m.state is not MemberState.DONE]
        return (
            f"version {self.version}: {ready} of {self._batch.prompts_per_update} groups complete; "
            f"{len(missing)} samples missing, first {', '.join(missing[:3]) or 'none'}"
            + (f"; the last one that failed: {self.last_failure}" if self.last_failure else "")
        )

    # -- inside ---------------------------------------------------------------------------------

    def _view(self) -> BufferView:
        ready = sorted((g for g in self._groups.values() if g.complete), key=lambda g: g.completed)
        return BufferView(
            version=self.version,
            groups_per_update=self._batch.prompts_per_update,
            ready=ready,
            unfinished=[g for g in self._groups.values() if not g.complete],
            trained=self._trained,
        )

    def _drop_stale(self) -> None:
        for group in [g for g in self._groups.values() if g.complete]:
            if any(age(self.version, row.oldest_version) > self._max_staleness for row in group.valid_rows):
                self._count("stale", len(group.members))
                self._redo(group, "stale")

    def _forget_trained(self) -> None:
        """Release the payloads that nothing will read again."""
        kept = []
        for group in self._trained:
            if self._sampler.retains(group, self.version):
                kept.append(group)
            else:
                self.payloads.release(group.valid_rows)
        self._trained = kept

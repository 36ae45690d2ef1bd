"""The stream buffer: the state machine between the workers and the learner.

It admits groups, leases their slots and composes batches under the staleness bound; what workers bring is
`buffers.live_groups`' part. It is a plain object without waits; `buffers.host` adds the waiting,
`buffers.intake` the loops.

    lease -> (accept -> generated -> scored) -> compose -> batched -> commit
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from buffers.admission import may_admit
from buffers.affinity import Affinity, Anywhere
from buffers.filters import Filter
from buffers.groups import Group, Member, MemberState, Row
from buffers.ledger import Event, EventKind, Ledger
from buffers.live_groups import LiveGroups, Verdict
from buffers.samplers import BufferView, Sampler
from buffers.schema import with_rewards
from buffers.scores import INTRINSIC, Score, valid_vector
from buffers.staleness import age, can_wait
from buffers.trajectory import Task, Unit
from configs.errors import RunError
from configs.schema import BatchConfig, BufferConfig

__all__ = ["Batch", "StreamBuffer", "TaskCursor"]


class TaskCursor(Protocol):
    """The task stream: ordinal k is always the same task."""

    @property
    def name(self) -> str:
        """Source of its slots."""
        ...

    @property
    def cursor(self) -> int:
        """Ordinal of the next group."""
        ...

    def next_group(self) -> tuple[int, int, Task]:
        """Return (epoch, position, task) of the group at the cursor, and advance."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one update consumes."""

    version: int
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    """In the order of identity."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By trajectory id, of what is scored when it is read; the others keep what they got at arrival."""
    scoring_s: Mapping[str, float] = field(default_factory=dict)
    """Component -> seconds that it took for these verdicts, at most."""

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.rows]

    def reward(self, row: Row) -> float | None:
        """Return the total reward that a row is trained with; None where it is invalid."""
        return self.verdicts[row.id].total if row.id in self.verdicts else row.reward

    def scores(self, row: Row) -> Mapping[str, Score]:
        """Return the scores of all components, unweighted."""
        return self.verdicts[row.id].scores if row.id in self.verdicts else row.scores


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
    ) -> None:
        size = batch.num_generations
        super().__init__(config, source=tasks.name, num_generations=size, filters=filters, ledger=ledger, clock=clock)
        self.version = version
        self.draining = False
        self._batch, self._max_staleness = batch, max_staleness
        self._tasks, self._sampler = tasks, sampler
        self._affinity = affinity or Anywhere()
        self._reopening: deque[tuple[int, tuple[int, int, Task], Mapping[int, int]]] = deque()
        """Arguments of `_open`, in the order of identity."""
        self._trained: list[Group] = []
        """Kept for replay."""
        self._trained_groups = trained_groups
        self._fresh_later = batch.prompts_per_update - sampler.most(batch.prompts_per_update)

    # -- admission and leases -------------------------------------------------------------------

    def restore(self, ordinal: int, group: tuple[int, int, Task], attempts: Mapping[int, int]) -> None:
        """Have a group reopened after a restart; `attempts` holds the last attempt of each sample.

        It is admitted in its turn, before new groups: a checkpoint can be older than what was in flight by
        several versions' groups, and all at once they would be too many for the staleness bound.
        """
        self._reopening.append((ordinal, group, {sample: attempt + 1 for sample, attempt in attempts.items()}))

    def workers(self, names: Sequence[str]) -> None:
        """These workers are there now; lanes are shared out among them."""
        self._affinity.workers(names)

    def lease(self, worker: str, count: int) -> list[Unit]:
        """Hand out up to `count` slots, admitting whole groups while the formula allows."""
        if self.draining or self.futile:
            return []
        members = self._take_pending(worker, count)
        while len(members) < count and self._may_admit():
            passed_over = len(self._pending)
            self._admit()
            members += self._take_pending(worker, count - len(members), passed_over)
        return [
            Unit(slot=m.slot, attempt=m.attempt, task=self._groups[m.slot.group].task, min_version=self.version)
            for m in members
        ]

    def _take_pending(self, worker: str, count: int, since: int = 0) -> list[Member]:
        """Lease the first `count` slots from `since` on that the worker may take; return them."""
        taken: list[Member] = []
        left = self._pending[:since]
        for member in self._pending[since:]:
            if len(taken) < count and self._affinity.may_take(member, worker):
                self._hand_out(member, worker)
                taken.append(member)
            else:
                left.append(member)
        self._pending = left
        return taken

    def _hand_out(self, member: Member, worker: str) -> None:
        self._affinity.taken(member, worker)
        member.state, member.worker, member.floor = MemberState.LEASED, worker, self.version
        group = self._groups[member.slot.group]
        if group.started_at < 0:
            group.started_at = self._clock()

    def _admit(self) -> None:
        if self._reopening:
            self._open(*self._reopening.popleft())
        else:
            self._open(self._tasks.cursor, self._tasks.next_group(), {})

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
        if self._config.staleness_policy == "drop":
            self._drop_stale()
        view = self._view()
        count = self._batch.prompts_per_update
        ranked = self._sampler.order(view)
        if ranked is None or len(ranked) < count:
            return None
        chosen = ranked[:count]
        if self._config.staleness_policy == "wait" and not self._can_leave(chosen):
            # The sampler's choice would make a group too old: take the most urgent fresh ones instead.
            repeated = [g for g in chosen if g.times_trained]
            urgent = sorted(view.ready, key=lambda g: (g.floor or 0, g.completed))
            chosen = [*urgent[: count - len(repeated)], *repeated]
            if not self._can_leave(chosen):
                return None
        chosen.sort(key=lambda g: g.ordinal)
        rows = tuple(row for group in chosen for row in group.valid_rows)
        return Batch(version=self.version, groups=tuple(chosen), rows=rows)

    def table(self, batch: Batch) -> pa.Table:
        """Return the batch as the learner reads it, see `with_rewards`."""
        intrinsic = [valid_vector(batch.scores(row).get(INTRINSIC)) for row in batch.rows]
        return with_rewards(self.payloads.gather(batch.rows), [batch.reward(row) for row in batch.rows], intrinsic)

    def batched(self, batch: Batch) -> None:
        """The learner took the batch."""
        self._ledger.record(self._events(EventKind.BATCHED, batch))

    def commit(self, batch: Batch) -> None:
        """The update that consumed the batch is published: the version rises by one."""
        self._ledger.record(self._events(EventKind.TRAINED, batch))
        for group in batch.groups:
            if group.times_trained == 0:
                self._trained_groups += 1
                del self._groups[group.key]
                self._trained.append(group)
            group.times_trained += 1
            group.trained_version = batch.version
        self.version = batch.version + 1
        self._forget_trained()

    def drain(self, reason: str) -> None:
        """Drop everything that is not trained; nothing is in flight afterwards."""
        self.draining = True
        while self._reopening:
            self._admit()
        for group in list(self._groups.values()):
            self._drop(group, reason)
        for group in self._trained:
            self.payloads.release(group.valid_rows)
        self._trained.clear()

    # -- what others may know -------------------------------------------------------------------

    @property
    def issued_groups(self) -> int:
        return self._tasks.cursor

    @property
    def leased(self) -> int:
        return sum(m.state is MemberState.LEASED for g in self._groups.values() for m in g.members)

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

    def _can_leave(self, chosen: Iterable[Group]) -> bool:
        taken = {group.key for group in chosen}
        floors = [g.floor for g in self._groups.values() if g.key not in taken]
        return can_wait(
            (floor for floor in floors if floor is not None),
            version=self.version,
            max_staleness=self._max_staleness,
            groups_per_update=self._fresh_later,
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

    def _events(self, kind: EventKind, batch: Batch) -> list[Event]:
        slots = {row.id: m for group in batch.groups for m in group.members for row in m.rows}
        replayed = {row.id for group in batch.groups if group.times_trained for row in group.valid_rows}
        return [
            Event(
                kind,
                slots[row.id].slot,
                slots[row.id].attempt,
                row.node,
                version=batch.version,
                reason="replay" if row.id in replayed else "",
            )
            for row in batch.rows
        ]

"""The stream buffer: the state machine between the workers and the learner.

It admits groups, leases their slots, takes payloads and verdicts, composes batches under the
staleness bound, and writes every step of every slot to the ledger. It is a plain object without
waits; `buffers.host` adds the waiting, `buffers.intake` the loops.

    lease -> accept -> generated -> scored -> compose -> commit
                \\______ lose / fail: a new attempt, or a failed slot ______/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from buffers.admission import may_admit
from buffers.filters import Filter
from buffers.groups import Group, Member, MemberState, Row
from buffers.identity import GroupKey, Slot
from buffers.ledger import Event, EventKind, Ledger
from buffers.payloads import PayloadStore
from buffers.samplers import BufferView, Sampler
from buffers.schema import with_rewards
from buffers.scores import Score
from buffers.staleness import age, can_wait
from buffers.trajectory import Task, Unit
from configs.errors import RunError
from configs.schema import BatchConfig, BufferConfig

__all__ = ["Batch", "StreamBuffer", "TaskCursor", "Verdict"]

FAILURE_CHARACTERS = 400


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


class Verdict(Protocol):
    """What the reward graph says of one trajectory."""

    scores: Mapping[str, Score]
    total: float | None
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one update consumes."""

    version: int
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    """In the order of identity."""

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.rows]


class StreamBuffer:
    """Admission, leases, groups, batches."""

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
    ) -> None:
        self.version = version
        self.draining = False
        self.dropped: dict[str, int] = {}
        self.payloads = PayloadStore()
        self._config, self._batch, self._max_staleness = config, batch, max_staleness
        self._tasks, self._sampler, self._filters = tasks, sampler, filters
        self._ledger, self._clock = ledger, clock
        self._groups: dict[GroupKey, Group] = {}
        self._trained: list[Group] = []
        self._pending: list[Member] = []
        self._unscored: dict[str, tuple[Member, Row]] = {}
        self._completions = 0
        self._trained_groups = trained_groups
        self._futile_groups: int | None = 0
        """Groups that failed wholly; None from the first group with a reward on."""
        self._last_failure = ""
        self._fresh_later = batch.prompts_per_update - sampler.most(batch.prompts_per_update)

    # -- admission and leases -------------------------------------------------------------------

    def restore(self, ordinal: int, group: tuple[int, int, Task], attempts: Mapping[int, int]) -> None:
        """Reopen a group after a restart; `attempts` holds the last attempt of each sample."""
        self._open(ordinal, group, {sample: attempt + 1 for sample, attempt in attempts.items()})

    def lease(self, worker: str, count: int) -> list[Unit]:
        """Hand out up to `count` slots, admitting whole groups while the formula allows."""
        if self.draining or self._is_futile():
            return []
        while len(self._pending) < count and self._may_admit():
            self._open(self._tasks.cursor, self._tasks.next_group(), {})
        members, self._pending = self._pending[:count], self._pending[count:]
        for member in members:
            member.state, member.worker, member.floor = MemberState.LEASED, worker, self.version
            group = self._groups[member.slot.group]
            if group.started_at < 0:
                group.started_at = self._clock()
        return [
            Unit(slot=m.slot, attempt=m.attempt, task=self._groups[m.slot.group].task, min_version=self.version)
            for m in members
        ]

    def _may_admit(self) -> bool:
        again = self._sampler.again(self._trained, self.version, self._batch.prompts_per_update)
        return may_admit(
            live_groups=self._trained_groups + len(self._groups),
            trained_groups=self._trained_groups,
            max_staleness=self._max_staleness,
            fresh_next=self._batch.prompts_per_update - len(again),
            fresh_later=self._fresh_later,
            held_bytes=self.payloads.held_bytes,
            max_bytes=self._config.max_bytes,
        )

    def _open(self, ordinal: int, group: tuple[int, int, Task], attempts: Mapping[int, int]) -> None:
        epoch, position, task = group
        slots = [Slot(self._tasks.name, epoch, position, sample) for sample in range(self._batch.num_generations)]
        members = [Member(slot=slot, attempt=attempts.get(slot.sample, 0)) for slot in slots]
        key = slots[0].group
        self._groups[key] = Group(key=key, ordinal=ordinal, task=task, members=members)
        self._pending += members
        self._ledger.record([Event(EventKind.ADMITTED, m.slot, m.attempt, version=self.version) for m in members])

    # -- what workers bring ---------------------------------------------------------------------

    def accept(self, table: pa.Table) -> pa.Table | None:
        """Take a message of trajectories; return the rows that belong to a leased attempt.

        Late and repeated rows are left out: their slot has a newer attempt, or is done.
        """
        columns = table.select(
            ["source", "epoch", "task", "sample", "attempt", "node", "id", "oldest_version", "num_sampled"]
        ).to_pylist()
        runs = [len(values) for values in table.column("version_values").to_pylist()]
        wanted: list[int] = []
        members: list[Member] = []
        for at, c in enumerate(columns):
            slot = Slot(c["source"], c["epoch"], c["task"], c["sample"])
            member = self._member(slot)
            if member and member.state is MemberState.LEASED and member.attempt == c["attempt"]:
                wanted.append(at)
                members.append(member)
        if not wanted:
            return None
        kept = table if len(wanted) == table.num_rows else table.take(wanted)
        message = self.payloads.put(kept)
        for index, (at, member) in enumerate(zip(wanted, members, strict=True)):
            c = columns[at]
            oldest = member.floor if c["oldest_version"] < 0 else c["oldest_version"]
            row = Row(c["id"], c["node"], message, index, oldest, c["num_sampled"], runs[at])
            member.rows.append(row)
            self._unscored[row.id] = (member, row)
        for member in members:
            member.state = MemberState.RECEIVED
            member.floor = min(row.oldest_version for row in member.rows)
        return kept

    def generated(self, ids: Sequence[str]) -> None:
        """Their payloads are on disk."""
        held = [self._unscored[i] for i in ids if i in self._unscored]
        for _, row in held:
            row.stored = True
        self._ledger.record([Event(EventKind.GENERATED, m.slot, m.attempt, row.node) for m, row in held])

    def scored(self, verdicts: Mapping[str, Verdict]) -> None:
        """Take verdicts by trajectory id. An invalid one fails its trajectory; it is never a reward of 0."""
        events: list[Event] = []
        members: list[Member] = []
        for row_id, verdict in verdicts.items():
            member, row = self._unscored.pop(row_id, (None, None))
            if member is None or row is None:
                continue
            row.scored, row.reward = True, verdict.total
            row.parts = {name: score.value for name, score in verdict.scores.items()}
            members.append(member)
            events.append(Event(EventKind.SCORED, member.slot, member.attempt, row.node))
            if row.reward is None:
                self._count("invalid_score")
                self._last_failure = verdict.detail
                events.append(Event(EventKind.FAILED, member.slot, member.attempt, row.node, reason=verdict.detail))
        self._ledger.record(events)
        self._settle(members)

    def fail(self, slot: Slot, attempt: int, reason: str, retry: bool) -> None:
        """A worker could not produce this attempt."""
        member = self._member(slot)
        if member and member.state is MemberState.LEASED and member.attempt == attempt:
            if retry and attempt + 1 < self._config.max_attempts:
                self._again(member, reason)
            else:
                self._give_up(member, reason)
                self._settle([member])

    def lose(self, worker: str) -> int:
        """A worker is gone: its leased slots become new attempts. Returns how many."""
        lost = [
            m for g in self._groups.values() for m in g.members if m.worker == worker and m.state is MemberState.LEASED
        ]
        for member in lost:
            if member.attempt + 1 < self._config.max_attempts:
                self._again(member, "worker_lost")
            else:
                self._give_up(member, f"worker_lost {self._config.max_attempts} times")
        self._settle(lost)
        return len(lost)

    def expire(self) -> int:
        """Fail members still missing after their group's deadline. Returns how many."""
        late: list[Member] = []
        for group in self._groups.values():
            if group.complete or group.started_at < 0:
                continue
            if self._clock() - group.started_at > self._config.group_deadline_s:
                late += [m for m in group.members if m.state is not MemberState.DONE]
        for member in late:
            self._give_up(member, f"group_deadline of {self._config.group_deadline_s:g} s passed")
        self._settle(late)
        return len(late)

    # -- batches --------------------------------------------------------------------------------

    def compose(self) -> Batch | None:
        """Choose the batch to be consumed at the present version, or None while it must wait.

        Raises:
          RunError: every group failed since the start; the message says why the last one did.
        """
        if self._is_futile():
            raise RunError(
                f"the first {self._futile_groups} groups have failed, and no sample has a reward "
                f"(buffer.max_failed_groups is {self._config.max_failed_groups}); correct the cause and start again: "
                f"{self._shown_failure()}"
            )
        if self._config.staleness_policy == "drop":
            self._drop_stale()
        view = self._view()
        count = self._batch.prompts_per_update
        ranked = self._sampler.order(view)
        if ranked is None or len(ranked) < count:
            return None
        chosen = ranked[:count]
        if self._config.staleness_policy == "wait" and not self._can_leave(chosen):
            # The sampler's choice would make a group too old: take the most urgent ones instead.
            chosen = sorted(view.ready, key=lambda g: (g.floor or 0, g.completed))[:count]
            if len(chosen) < count or not self._can_leave(chosen):
                return None
        chosen.sort(key=lambda g: g.ordinal)
        rows = tuple(row for group in chosen for row in group.valid_rows)
        return Batch(version=self.version, groups=tuple(chosen), rows=rows)

    def table(self, batch: Batch) -> pa.Table:
        """Return the batch as the learner reads it: trajectory columns, `reward`, `reward_valid`."""
        return with_rewards(self.payloads.gather(batch.rows), [row.reward for row in batch.rows])

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

    def incomplete_groups(self) -> set[str]:
        """Return the groups, by name, that workers still have to bring samples of."""
        return {str(g.key) for g in self._groups.values() if any(m.to_come for m in g.members)}

    def awaiting(self) -> str:
        """Say what the next batch waits for, by id."""
        ready = sum(g.complete for g in self._groups.values())
        missing = [str(m.slot) for g in self._groups.values() for m in g.members if m.state is not MemberState.DONE]
        return (
            f"version {self.version}: {ready} of {self._batch.prompts_per_update} groups complete; "
            f"{len(missing)} samples missing, first {', '.join(missing[:3]) or 'none'}"
            + (f"; the last one that failed: {self._shown_failure()}" if self._last_failure else "")
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

    def _redo(self, group: Group, reason: str) -> None:
        """Generate a whole group again."""
        group.completed, group.started_at = -1, -1.0
        for member in group.members:
            self._discard(member)
            self._again(member, reason)

    def _again(self, member: Member, reason: str) -> None:
        events = [Event(EventKind.DROPPED, member.slot, member.attempt, reason=reason)]
        member.attempt += 1
        events.append(Event(EventKind.ADMITTED, member.slot, member.attempt, version=self.version))
        self._ledger.record(events)
        member.state, member.worker = MemberState.PENDING, ""
        self._pending.insert(0, member)

    def _give_up(self, member: Member, reason: str) -> None:
        if member.state is MemberState.PENDING:
            self._pending.remove(member)
        self._discard(member)
        self._count("failed")
        self._last_failure = reason
        self._ledger.record([Event(EventKind.FAILED, member.slot, member.attempt, reason=reason)])
        member.state = MemberState.DONE

    def _settle(self, members: Iterable[Member]) -> None:
        """Finish members whose rows are all scored, and groups whose members are all finished."""
        touched: dict[GroupKey, None] = {}
        for member in members:
            if member.state is MemberState.RECEIVED and all(row.scored for row in member.rows):
                member.state = MemberState.DONE
                self.payloads.release([row for row in member.rows if row.reward is None])
            touched[member.slot.group] = None
        for key in touched:
            group = self._groups.get(key)
            if group and not group.complete and all(m.state is MemberState.DONE for m in group.members):
                self._complete(group)

    def _complete(self, group: Group) -> None:
        group.completed = self._completions
        self._completions += 1
        rewards = [row.reward for row in group.valid_rows if row.reward is not None]
        if not rewards:
            if self._futile_groups is not None:
                self._futile_groups += 1
            self._drop(group, "no valid member")
            return
        self._futile_groups = None
        for rule in self._filters:
            reason = rule.reason(rewards)
            if reason is not None:
                self._count(reason, len(group.members))
                self._drop(group, reason)
                return

    def _drop(self, group: Group, reason: str) -> None:
        """Give a group up for good; `accepted` falls, so another one is admitted."""
        del self._groups[group.key]
        events = []
        for member in group.members:
            if member.state is MemberState.PENDING:
                self._pending.remove(member)
            if member.state is not MemberState.DONE or member.valid_rows:
                events.append(Event(EventKind.DROPPED, member.slot, member.attempt, reason=reason))
            self._discard(member)
        self._ledger.record(events)

    def _discard(self, member: Member) -> None:
        """Forget the payloads of an attempt; the invalid rows of a DONE member are gone already."""
        rows = member.valid_rows if member.state is MemberState.DONE else member.rows
        for row in rows:
            self._unscored.pop(row.id, None)
        self.payloads.release(rows)
        member.rows = []

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

    def _is_futile(self) -> bool:
        """Return whether so many groups failed before any reward that the cause is the input, not an outage."""
        return self._futile_groups is not None and self._futile_groups >= self._config.max_failed_groups

    def _shown_failure(self) -> str:
        return " ".join(self._last_failure.split())[:FAILURE_CHARACTERS]

    def _member(self, slot: Slot) -> Member | None:
        group = self._groups.get(slot.group)
        return group.members[slot.sample] if group and slot.sample < len(group.members) else None

    def _count(self, reason: str, amount: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + amount

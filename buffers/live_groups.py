"""The groups that are neither trained nor given up: what happens to a slot between admission and its batch.

    open -> accept -> generated -> scored -> settle: complete, or dropped by a filter
              \\______ fail / lose / expire: a new attempt, or a failed slot

Every step is written to the ledger. Who may be leased and what is trained is decided in `buffers.stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from buffers.filters import Filter
from buffers.groups import Group, Member, MemberState, Row
from buffers.identity import Slot
from buffers.ledger import Event, EventKind, Ledger
from buffers.load import LoadMeter
from buffers.payloads import PayloadStore
from buffers.quarantine import Quarantine
from buffers.scores import Score, StepRewards
from buffers.suspects import Suspects
from buffers.trajectory import Task
from configs.stream import BufferConfig

__all__ = ["LiveGroups", "Verdict"]

FAILURE_CHARACTERS = 400
IDENTITY = ("source", "epoch", "task", "sample", "attempt")


class Verdict(Protocol):
    """What the reward graph says of one trajectory."""

    scores: Mapping[str, Score]
    total: float | None
    steps: StepRewards | None
    """Beside the total, where some component gives credit to steps."""
    detail: str


class LiveGroups:
    """Groups, their members, and the payloads that these brought."""

    def __init__(
        self,
        config: BufferConfig,
        *,
        source: str,
        num_generations: int,
        filters: Sequence[Filter],
        ledger: Ledger,
        clock: Callable[[], float],
        quarantine: Quarantine | None = None,
    ) -> None:
        self._groups: dict[tuple[str, int, int], Group] = {}
        """By `GroupKey`, or by the same three as a plain tuple, which is made faster."""
        self._pending: list[Member] = []
        """To be leased, in this order."""
        self.version = 0
        """Of the newest weights."""
        self.payloads = PayloadStore()
        self.dropped: dict[str, int] = {}
        """reason -> samples"""
        self.load = LoadMeter(clock=clock)
        """Of the learner: complete groups wait for it."""
        self._config, self._source, self._num_generations = config, source, num_generations
        self._filters, self._ledger, self._clock = filters, ledger, clock
        self._unscored: dict[str, tuple[Member, Row]] = {}
        self._completions = 0
        self._futile_groups: int | None = 0
        """Groups that failed wholly; None from the first group with a reward on."""
        self._last_failure = ""
        self._suspects, self._quarantine = Suspects(config.max_worker_kills), quarantine

    def _open(self, ordinal: int, group: tuple[int, int, Task], attempts: Mapping[int, int]) -> None:
        """Admit a group; `attempts` holds the next attempt of samples that had some."""
        epoch, position, task = group
        slots = [Slot(self._source, epoch, position, sample) for sample in range(self._num_generations)]
        members = [Member(slot=slot, attempt=attempts.get(slot.sample, 0)) for slot in slots]
        key = slots[0].group
        self._groups[key] = Group(key=key, ordinal=ordinal, task=task, members=members)
        self._pending += members
        events = [Event(EventKind.ADMITTED, m.slot, m.attempt, version=self.version) for m in members]
        admitted = self._ledger.record(events)
        for member in members:
            member.admitted = admitted

    def accept(self, table: pa.Table) -> pa.Table | None:
        """Take a message of trajectories; return the rows that belong to a leased attempt.

        Late and repeated rows are left out: their slot has a newer attempt, or is done.
        """
        arriving = zip(*(table[name].to_pylist() for name in IDENTITY), strict=True)
        found = [self._leased(Slot(*slot), attempt) for *slot, attempt in arriving]
        members = [member for member in found if member is not None]
        if not members:
            return None
        kept = table if len(members) == len(found) else table.take([i for i, m in enumerate(found) if m is not None])
        message = self.payloads.put(kept)
        columns = [kept[name].to_pylist() for name in ("id", "node", "oldest_version", "num_sampled")]
        runs = pc.list_value_length(kept["version_values"]).to_pylist()
        for index, (member, name, node, oldest, tokens, spanned) in enumerate(
            zip(members, *columns, runs, strict=True)
        ):
            row = Row(name, node, message, index, member.floor if oldest < 0 else oldest, tokens, spanned)
            member.rows.append(row)
            self._unscored[name] = (member, row)
        for member in members:
            self._suspects.clear(member.slot)
            member.state = MemberState.RECEIVED
            member.floor = min(row.oldest_version for row in member.rows)
        return kept

    def admissions(self, ids: Sequence[str]) -> list[Future[None]]:
        """Return what must be on disk before the payloads of `ids`: after a crash, a resumed run counts attempts."""
        futures = (self._unscored[i][0].admitted for i in ids if i in self._unscored)
        return list(dict.fromkeys(future for future in futures if future is not None))

    def generated(self, ids: Sequence[str]) -> None:
        """Their payloads are on disk."""
        held = [self._unscored[i] for i in ids if i in self._unscored]
        for _, row in held:
            row.stored = True
        made = [Event(EventKind.GENERATED, m.slot, m.attempt, row.node, worker=m.worker) for m, row in held]
        self._ledger.record(made)

    def scored(self, verdicts: Mapping[str, Verdict]) -> None:
        """Take verdicts by trajectory id. An invalid one fails its trajectory; it is never a reward of 0."""
        events: list[Event] = []
        members: list[Member] = []
        for row_id, verdict in verdicts.items():
            member, row = self._unscored.pop(row_id, (None, None))
            if member is None or row is None:
                continue
            row.scored, row.reward, row.steps = True, verdict.total, verdict.steps
            row.scores = verdict.scores
            members.append(member)
            events.append(Event(EventKind.SCORED, member.slot, member.attempt, row.node, reward=row.reward))
            if row.reward is None:
                self._count("invalid_score")
                self._last_failure = verdict.detail
                events.append(Event(EventKind.FAILED, member.slot, member.attempt, row.node, reason=verdict.detail))
        self._ledger.record(events)
        self._settle(members)

    def fail(self, slot: Slot, attempt: int, reason: str, retry: bool) -> None:
        """A worker could not produce this attempt."""
        if member := self._leased(slot, attempt):
            if retry and attempt + 1 < self._config.max_attempts:
                self._again(member, reason)
            else:
                self._give_up(member, reason)
                self._settle([member])

    def lose(self, worker: str, fault: str = "") -> int:
        """A worker is gone: its leased slots become new attempts. Returns how many.

        Args:
          fault: how it died; what it held may be the cause, see `buffers.suspects`. Empty: that is known not to be.
        """
        lost = self._held_by(worker)
        poison = set(self._blame(worker, lost, fault)) if fault else set()
        for member in reversed(lost):  # each goes to the front: they stay in order
            if member.slot in poison:
                self._isolate(member)
            elif member.attempt + 1 < self._config.max_attempts:
                self._again(member, "worker_lost")
            else:
                self._give_up(member, f"worker_lost {self._config.max_attempts} times")
        self._settle(lost)
        return len(lost)

    def _held_by(self, worker: str) -> list[Member]:
        return [
            m for g in self._groups.values() for m in g.members if m.worker == worker and m.state is MemberState.LEASED
        ]

    def _blame(self, worker: str, lost: Sequence[Member], fault: str) -> list[Slot]:
        return self._suspects.blame([(m.slot, m.attempt) for m in lost], worker, self._ledger.now(), fault)

    def _isolate(self, member: Member) -> None:
        """Give up a slot that kills workers, and leave the evidence."""
        kills = self._suspects.evidence(member.slot)
        self._give_up(member, f"quarantined: it killed {len(kills)} workers, the last one alone ({kills[-1]['exit']})")
        self._count("quarantined")
        if self._quarantine is not None:
            self._quarantine.put(member.slot, self._groups[member.slot[:3]].task, kills)

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

    def incomplete_groups(self) -> set[str]:
        """Return the groups, by name, that workers still have to bring samples of."""
        return {str(g.key) for g in self._groups.values() if any(m.to_come for m in g.members)}

    @property
    def futile(self) -> str:
        """Say that so many groups failed before any reward that the cause is the input, not an outage; or nothing."""
        if self._futile_groups is None or self._futile_groups < self._config.max_failed_groups:
            return ""
        return (
            f"the first {self._futile_groups} groups have failed, and no sample has a reward "
            f"(buffer.max_failed_groups is {self._config.max_failed_groups}); correct the cause and start again: "
            f"{self.last_failure}"
        )

    @property
    def last_failure(self) -> str:
        """Why the last sample failed, on one line."""
        return " ".join(self._last_failure.split())[:FAILURE_CHARACTERS]

    def _redo(self, group: Group, reason: str) -> None:
        """Generate a whole group again."""
        group.completed, group.started_at = -1, -1.0
        self.load.gone(group.key)
        for member in group.members:
            self._discard(member)
            self._again(member, reason)

    def _again(self, member: Member, reason: str) -> None:
        events = [Event(EventKind.DROPPED, member.slot, member.attempt, reason=reason)]
        member.attempt += 1
        events.append(Event(EventKind.ADMITTED, member.slot, member.attempt, version=self.version))
        member.admitted = self._ledger.record(events)
        member.state, member.worker = MemberState.PENDING, ""
        self._pending.insert(0, member)

    def _give_up(self, member: Member, reason: str) -> None:
        if member.state is MemberState.PENDING:
            self._pending.remove(member)
        self._suspects.clear(member.slot)
        self._discard(member)
        self._count("failed")
        self._last_failure = reason
        self._ledger.record([Event(EventKind.FAILED, member.slot, member.attempt, reason=reason)])
        member.state = MemberState.DONE

    def _settle(self, members: Iterable[Member]) -> None:
        """Finish members whose rows are all scored, and groups whose members are all finished."""
        touched: dict[tuple[str, int, int], None] = {}
        for member in members:
            if member.state is MemberState.RECEIVED and all(row.scored for row in member.rows):
                member.state = MemberState.DONE
                self.payloads.release([row for row in member.rows if row.reward is None])
            touched[member.slot[:3]] = None
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
            reason = rule.reason([row.reward for row in group.valid_rows if row.reward is not None])
            if reason is not None:
                self._count(reason, len(group.members))
                self._drop(group, reason)
                return
            self._leave_out(group, rule.surplus(group.valid_rows), rule.surplus_reason)
        self.load.came(group.key)

    def _leave_out(self, group: Group, rows: Sequence[Row], reason: str) -> None:
        """Give single trajectories of a complete group up; the others are trained without them."""
        if not rows:
            return
        owners = {row.id: member for member in group.members for row in member.rows}
        slots = [(owners[row.id].slot, owners[row.id].attempt, row.node) for row in rows]
        self._ledger.record([Event(EventKind.DROPPED, *slot, reason=reason) for slot in slots])
        self._count(reason, len(rows))
        self.payloads.release(rows)
        for row in rows:
            row.reward = None

    def _drop(self, group: Group, reason: str) -> None:
        """Give a group up for good; `accepted` falls, so another one is admitted."""
        del self._groups[group.key]
        self.load.gone(group.key)
        events = []
        for member in group.members:
            self._suspects.clear(member.slot)
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

    def _member(self, slot: Slot) -> Member | None:
        group = self._groups.get(slot[:3])
        return group.members[slot.sample] if group and slot.sample < len(group.members) else None

    def _leased(self, slot: Slot, attempt: int) -> Member | None:
        """Return the member that waits for this attempt."""
        member = self._member(slot)
        return member if member and member.state is MemberState.LEASED and member.attempt == attempt else None

    def _count(self, reason: str, amount: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + amount

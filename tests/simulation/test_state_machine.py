"""Ledger and stream buffer against a dict: each slot is in exactly one state, through crashes and resumes."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sim_run import memory_folder
from sim_store import DEADLINE_S, MAX_ATTEMPTS, MEMBERS, Store

from buffers.records.audit import audit
from buffers.records.query import query
from buffers.trajectory import Unit

PENDING, LEASED, RECEIVED, DONE = "pending", "leased", "received", "done"
OUTCOMES = """
SELECT concat_ws(':', source, epoch, task, sample) AS slot, arg_max(event::VARCHAR, seq) AS event,
    arg_max(reason, seq) AS reason
FROM events GROUP BY ALL
"""


class StreamMachine(RuleBasedStateMachine):
    """The model: slot -> state. Final states are "trained", "failed: why" and "dropped: why".

    Fails if a step forgets a slot, keeps it in two places, trains it twice, or loses it in a crash.
    """

    @initialize(staleness=st.integers(0, 2), policy=st.sampled_from(["wait", "drop"]))
    def begin(self, staleness: int, policy: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-machine-", dir=memory_folder()))
        self.store = Store(self.folder / "run", max_staleness=staleness, policy=policy)
        self.model: dict[str, str] = {}
        self.leases: dict[str, tuple[str, Unit, int]] = {}
        """slot -> (worker, unit, version that it was leased at)"""
        self.trained: dict[str, int] = {}
        self.units: list[Unit] = []
        """Everything leased in this life, attempts that are over too."""

    # -- what happens to slots ------------------------------------------------------------------

    @rule(worker=st.sampled_from("ab"), count=st.integers(1, 5))
    def lease(self, worker: str, count: int) -> None:
        for unit in self.store.buffer.lease(worker, count):
            slot = str(unit.slot)
            assert self.model.get(slot, PENDING) == PENDING
            for sample in range(MEMBERS):  # a group is admitted whole
                self.model.setdefault(f"{unit.slot.group}:{sample}", PENDING)
            self.model[slot], self.leases[slot] = LEASED, (worker, unit, self.store.buffer.version)
            self.units.append(unit)

    @precondition(lambda self: LEASED in self.model.values())
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self._in_state(LEASED)))
        _, unit, version = self.leases[slot]
        self.store.deliver(unit, version)
        self.model[slot] = RECEIVED

    @precondition(lambda self: self.units)
    @rule(data=st.data())
    def deliver_late(self, data: st.DataObject) -> None:
        """An attempt that is over, or has arrived already, changes nothing, also while another one is on its way."""
        unit = data.draw(st.sampled_from(self.units))
        current = self.leases[str(unit.slot)][1]
        if unit.attempt < current.attempt or self.model.get(str(unit.slot)) != LEASED:
            self.store.deliver(unit, 0)

    @precondition(lambda self: RECEIVED in self.model.values())
    @rule(data=st.data(), reward=st.sampled_from([0.0, 1.0, None]))
    def score(self, data: st.DataObject, reward: float | None) -> None:
        slot = data.draw(st.sampled_from(self._in_state(RECEIVED)))
        self.store.score(self.leases[slot][1], reward)
        self.model[slot] = DONE if reward is not None else "failed: broken"

    @precondition(lambda self: LEASED in self.model.values())
    @rule(data=st.data(), retry=st.booleans())
    def fail(self, data: st.DataObject, retry: bool) -> None:
        slot = data.draw(st.sampled_from(self._in_state(LEASED)))
        unit = self.leases[slot][1]
        self.store.buffer.fail(unit.slot, unit.attempt, "engine", retry)
        self.model[slot] = PENDING if retry and unit.attempt + 1 < MAX_ATTEMPTS else "failed: engine"

    @rule(worker=st.sampled_from("ab"))
    def lose(self, worker: str) -> None:
        self.store.buffer.lose(worker)
        for slot in self._in_state(LEASED):
            owner, unit, _ = self.leases[slot]
            if owner == worker:
                lost = f"failed: worker_lost {MAX_ATTEMPTS} times"
                self.model[slot] = PENDING if unit.attempt + 1 < MAX_ATTEMPTS else lost

    @rule()
    def evict_late(self) -> None:
        """Every group that was begun is over its deadline: what it still waits for has failed."""
        begun = {str(g.key) for g in self.store.buffer._groups.values() if g.started_at >= 0 and not g.complete}
        self.store.now += DEADLINE_S + 1
        self.store.buffer.expire()
        for slot, state in self.model.items():
            if slot.rpartition(":")[0] in begun and state in (PENDING, LEASED, RECEIVED):
                self.model[slot] = f"failed: group_deadline of {DEADLINE_S:g} s passed"

    @rule()
    def train(self) -> None:
        before = dict(self.model)
        batch = self.store.train()
        if batch is not None:
            for row in batch.rows:
                slot = row.id.rsplit(".", 2)[0]
                assert before[slot] == DONE and batch.version - row.oldest_version <= self.store.max_staleness
                self.model[slot], self.trained[slot] = "trained", batch.version
        for slot, state in self.store.states().items():
            if state == PENDING and before[slot] != PENDING:  # too old: the whole group is generated again
                assert self.store.policy == "drop" and (before[slot] == DONE or before[slot].startswith("failed"))
                self.model[slot] = PENDING

    # -- what happens to the run ----------------------------------------------------------------

    @rule(stream=st.sampled_from(["events", "versions", "scores"]))
    def commit(self, stream: str) -> None:
        self.store.commits[f"segments-{stream}"].commit()

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint()

    @rule(seed=st.integers(0, 999))
    def crash(self, seed: int) -> None:
        self.store.crash(random.Random(seed))
        self._resumed()

    @rule()
    def restart(self) -> None:
        """An orderly end, then a resume from the newest checkpoint."""
        self.store.checkpoint()
        self.store.end_life()
        self.store.folder.begin_epoch()
        self.store.open()
        self._resumed()

    def _resumed(self) -> None:
        """Trained slots stay exactly where the checkpoint has them; the rest goes on, or was never heard of."""
        kept = {slot for slot, version in self.trained.items() if version < self.store.checkpoint_version}
        live = self.store.states()
        assert not kept & live.keys()
        done_groups = {slot.rpartition(":")[0] for slot in kept}
        for slot in list(self.model):
            if slot in live:
                self.model[slot] = PENDING
            elif slot not in kept and not self.model[slot].startswith("failed"):
                # Its admission never reached the disk: the same slot is issued again.
                assert slot.rpartition(":")[0] not in done_groups
                assert self._ordinal(slot) >= self.store.tasks.cursor, f"{slot} was lost"
                del self.model[slot]
        for slot in [s for s in self.model if self._ordinal(s) >= self.store.tasks.cursor]:
            del self.model[slot]
        self.trained = {slot: version for slot, version in self.trained.items() if slot in kept}
        self.leases, self.units = {}, []

    def _ordinal(self, slot: str) -> int:
        _, epoch, task, _ = slot.split(":")
        return int(epoch) * self.store.tasks.tasks_per_epoch + int(task)

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def live_slots_are_where_the_model_has_them(self) -> None:
        if not hasattr(self, "store"):
            return
        for slot, state in self.store.states().items():
            expected = self.model.get(slot, PENDING)
            assert state == (DONE if expected.startswith("failed") else expected), (slot, state, expected)
        final = {s for s, state in self.model.items() if state == "trained" or state.startswith("failed")}
        assert self.model.keys() - final <= self.store.states().keys(), "a slot is nowhere"

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self._check_the_books()
        finally:
            self.store.folder.close()
            shutil.rmtree(self.folder)

    def _check_the_books(self) -> None:
        unfinished = self.store.states()
        self.store.end_life()
        self.store.folder.write_run({"status": "finished"})
        books = audit(self.store.path)
        assert books.balanced, books.problems
        told = {row["slot"]: row for row in query(self.store.path, OUTCOMES).to_pylist()}
        assert told.keys() == self.model.keys() | unfinished.keys()
        for slot, state in self.model.items():
            said = told[slot]["event"] if state == "trained" else f"{told[slot]['event']}: {told[slot]['reason']}"
            ended = state in (PENDING, LEASED, RECEIVED, DONE)
            assert said == ("dropped: run_ended" if ended else state), slot

    def _in_state(self, state: str) -> list[str]:
        return sorted(slot for slot, found in self.model.items() if found == state)


TestStreamMachine = StreamMachine.TestCase
TestStreamMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)

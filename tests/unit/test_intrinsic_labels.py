"""The queue of captions that wait for a label, the pairs made of them, and the store of labels."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from buffers.epochs import begin_epoch
from buffers.records.query import query
from buffers.scores import ScoreStatus
from rewards.intrinsic.label_queue import Batch, LabelQueue
from rewards.intrinsic.label_store import LabelStore
from rewards.intrinsic.labels import Item, Label
from rewards.intrinsic.pairs import PairSource

SIZE, ABSTENTIONS = 5, 2
ITEMS = st.integers(0, 9).map(lambda number: (str(number),))


def queue(labelled: set[Item], size: int = SIZE) -> LabelQueue:
    return LabelQueue(size, labelled=labelled, max_abstentions=ABSTENTIONS, abstentions={})


def waiting(held: LabelQueue) -> list[str]:
    """Return what waits, the newest first."""
    batch = held.take(1000)
    held.settle(batch)
    return [item[0] for item in batch.items]


class QueueMachine(RuleBasedStateMachine):
    """Any order of offers, takes and answers."""

    def __init__(self) -> None:
        super().__init__()
        self.labelled: set[Item] = set()
        self.queue = queue(self.labelled)
        self.batches: list[Batch] = []
        self.offered: set[Item] = set()
        self.silent: Counter[Item] = Counter()

    @rule(items=st.lists(ITEMS, max_size=8))
    def offer(self, items: list[Item]) -> None:
        self.queue.offer(items)
        self.offered |= set(items)

    @rule(count=st.integers(0, 4))
    def take(self, count: int) -> None:
        before = len(self.queue)
        batch = self.queue.take(count)
        assert len(batch.items) == min(count, before)
        for item in batch.items:
            assert item in self.offered and item not in self.labelled
            assert self.silent[item] < ABSTENTIONS, "given up, and asked about again"
            assert not any(item in other.items for other in self.batches), "in flight twice"
        self.batches.append(batch)

    @rule(pick=st.integers(0, 100), answered=st.integers(0, 4), silent=st.integers(0, 4))
    def settle(self, pick: int, answered: int, silent: int) -> None:
        if not self.batches:
            return
        batch = self.batches.pop(pick % len(self.batches))
        room = SIZE - len(self.queue)
        self.labelled.update(batch.items[:answered])
        abstained = batch.items[answered : answered + silent]
        self.silent.update(abstained)
        self.queue.settle(batch, abstained=abstained)
        again = [i for i in batch.items if i not in self.labelled and self.silent[i] < ABSTENTIONS]
        assert len(self.queue) == SIZE - room + min(room, len(again)), "what has no label waits again"

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.queue) <= SIZE
        assert self.queue.in_flight == sum(len(batch.items) for batch in self.batches)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_the_newest_goes_first_and_seen_again_is_new_again():
    held = queue(set())
    held.offer([("a",), ("b",), ("c",), ("a",)])
    assert [item[0] for item in held.take(2).items] == ["a", "c"]


def test_a_full_queue_lets_the_oldest_go():
    held = queue(set(), size=2)
    held.offer([("a",), ("b",), ("c",)])
    assert (waiting(held), held.let_go) == (["c", "b"], 1)


def test_what_failed_waits_behind_what_did_not():
    held = queue(set())
    held.offer([("old",), ("poison",)])
    held.settle(held.take(1))
    assert waiting(held) == ["old", "poison"]


def test_pairs_are_different_captions_without_a_label_in_one_order():
    source, labelled = PairSource(random.Random(0), size=4), set[Item]()
    source.add(["gone", "a", "b", "c", "d", "a"])
    for _ in range(20):
        pairs = source.draw(2, labelled)
        assert len(set(pairs)) == len(pairs) <= 2 and not labelled & set(pairs)
        labelled |= set(pairs)
    assert len(labelled) == 6, "every pair of four captions, once"
    assert {caption for pair in labelled for caption in pair} == set("abcd")
    assert not labelled & {(b, a) for a, b in labelled}
    assert PairSource(random.Random(0)).draw(3, set()) == []


def store(folder: Path, held_out_fraction: float = 0.0) -> LabelStore:
    path = folder / "intrinsic"
    return LabelStore(path, epoch=begin_epoch(path), held_out_fraction=held_out_fraction)


def add(held: LabelStore, *labels: Label) -> list[Item]:
    return held.add(labels, annotator="annotator-0", version=3, time=1.0)


def test_every_answer_is_logged_and_only_first_labels_are_kept(tmp_path: Path):
    held = store(tmp_path)
    unclear = Label(item=("c",), status=ScoreStatus.ABSTAINED, reply="hm", detail="no tag")
    assert add(held, Label(item=("a",), value=1.0, latency_s=0.5), unclear) == [("a",)]
    assert add(held, Label(item=("a",), value=0.0), Label(item=("b", "a"), value=0.5)) == [("b", "a")]
    assert held.examples == [(("a",), 1.0), (("b", "a"), 0.5)] and held.captions == {"a", "b"}
    held.close()
    again = store(tmp_path)
    assert (again.examples, set(again), again.abstentions) == (held.examples, set(held), {("c",): 1})
    again.close()
    rows = query_rows(tmp_path, "SELECT item, value, status, reply, detail, latency_s, version FROM labels")
    assert rows[0] == {
        "item": ["a"], "value": 1.0, "status": "ok", "reply": "", "detail": "", "latency_s": 0.5, "version": 3,
    }  # fmt: skip
    assert [row["value"] for row in rows] == [1.0, None, 0.0, 0.5]


def query_rows(folder: Path, sql: str) -> list[dict[str, object]]:
    (folder / "metrics").mkdir()
    return query(folder, sql).to_pylist()


def test_a_share_is_held_out_by_the_item_and_stays_so(tmp_path: Path):
    held = store(tmp_path, 0.25)
    add(held, *(Label(item=(f"caption {i}",), value=1.0) for i in range(400)))
    held.close()
    assert 60 < len(held.held_out) < 140 and len(held.examples) + len(held.held_out) == 400
    again = store(tmp_path, 0.25)
    assert (again.examples, again.held_out) == (held.examples, held.held_out)
    again.close()

"""Lanes stay with their workers, in equal shares, and move only when a worker comes or goes."""

from __future__ import annotations

import pyarrow as pa

from buffers.affinity import ByLane
from buffers.groups import Member
from buffers.identity import Slot


def member(lane: int, turn: int = 0) -> Member:
    return Member(slot=Slot("env", turn, lane, 0))


def lease(affinity: ByLane, worker: str, lanes: range, turn: int = 0) -> list[int]:
    """Return the lanes of a round that a worker takes."""
    taken = []
    for lane in lanes:
        if affinity.may_take(member(lane, turn), worker):
            affinity.taken(member(lane, turn), worker)
            taken.append(lane)
    return taken


def bring(affinity: ByLane, lanes: range, turn: int = 0) -> None:
    """Have all fragments of a round come back."""
    same = {"source": "env", "epoch": turn, "sample": 0, "id": "", "num_sampled": 1, "metadata": "{}"}
    affinity.brought(pa.Table.from_pylist([{**same, "task": lane} for lane in lanes]))


def test_each_worker_gets_an_equal_share_whoever_asks_first() -> None:
    affinity = ByLane(10)
    affinity.workers(["a", "b", "c"])
    taken = {worker: lease(affinity, worker, range(10)) for worker in ("c", "a", "b")}
    assert sorted(lane for lanes in taken.values() for lane in lanes) == list(range(10))
    assert max(map(len, taken.values())) == 4


def test_a_lane_stays_with_its_worker_in_later_rounds() -> None:
    affinity = ByLane(6)
    affinity.workers(["a", "b"])
    first = {worker: lease(affinity, worker, range(6)) for worker in ("a", "b")}
    for turn in range(1, 4):
        assert {worker: lease(affinity, worker, range(6), turn) for worker in ("b", "a")} == first


def test_the_lanes_of_a_lost_worker_go_to_whoever_has_room() -> None:
    affinity = ByLane(6)
    affinity.workers(["a", "b"])
    mine = lease(affinity, "a", range(6))
    theirs = lease(affinity, "b", range(6))
    affinity.workers(["b"])
    assert lease(affinity, "b", range(6), 1) == theirs, "who leaves brings the rest first"
    affinity.lost("a")
    assert lease(affinity, "b", range(6), 1) == sorted(mine + theirs)


def test_a_new_worker_is_given_lanes_of_those_with_too_many_and_no_more() -> None:
    affinity = ByLane(8)
    affinity.workers(["a"])
    assert lease(affinity, "a", range(8)) == list(range(8))
    affinity.workers(["a", "b"])
    assert lease(affinity, "b", range(8), 1) == [], "all of them are under way"
    bring(affinity, range(8))
    moved = lease(affinity, "b", range(8), 1)
    assert len(moved) == 4
    assert lease(affinity, "a", range(8), 1) == [lane for lane in range(8) if lane not in moved]

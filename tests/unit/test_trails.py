"""A lane that goes to another process goes on there as if it had stayed: the same fragments come of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pytest

sys.path.append(str(Path(__file__).parent))
from lane_scene import LANES, play, rollouts, rounds, unit

from actors.lane_rollouts import LaneRollouts
from buffers.affinity import ByLane
from buffers.groups import Member
from buffers.identity import Slot
from buffers.segments import SegmentWriter
from buffers.tables import TRAJECTORY
from buffers.trail import Trail, Trails, pieces
from buffers.trajectory import Unit
from buffers.walk_back import trails_of

MEMORY = ("policy.core={target: gru, size: 8}",)
DOORS = (
    "environment.backend={target: gymnasium, id: MiniGrid-DoorKey-5x5-v0, keys: [image, direction]}",
    "environment.captions={target: minigrid}",
)
ROUNDS = 6


class Forgetful(gymnasium.Env[Any, Any]):
    """What it shows is not a function of its seed: a second life of it shows something else."""

    observation_space = gymnasium.spaces.Box(-1e9, 1e9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    lives = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        Forgetful.lives += 1
        self.life = Forgetful.lives
        return np.array([self.life], np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([self.life], np.float32), 1.0, False, False, {}


class Brittle(Forgetful):
    """Its second life breaks at the third step."""

    lives = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        Brittle.lives += 1
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if (Brittle.lives, self.steps) == (2, 3):
            raise OSError("the save file is gone")
        return np.zeros(1, np.float32), 1.0, False, False, {}


gymnasium.register("headrace/Forgetful-v0", entry_point=Forgetful)
gymnasium.register("headrace/Brittle-v0", entry_point=Brittle)


async def made(running: LaneRollouts, units: list[Unit]) -> pa.Table:
    """Return what came of some units as one table."""
    for one in units:
        running.start(one)
    while running.in_flight:
        await running.step()
    fragments, failures = running.take()
    assert not failures, failures
    await running.close()
    return running.to_table(fragments)


def followed(table: pa.Table) -> Trails:
    trails = Trails()
    for piece in pieces(table):
        trails.follow(piece)
    return trails


def going_on(trails: Trails, first: int, count: int) -> list[Unit]:
    """Return the units of later rounds, the first one of each lane with its trail."""
    later = [unit(lane, first + turn) for turn in range(count) for lane in range(LANES)]
    return [replace(u, trail=trails.of(u.slot.task) if u.slot.epoch == first else None) for u in later]


@pytest.mark.parametrize("words", [MEMORY, DOORS, ("environment.halves=2",)])
@pytest.mark.parametrize("first", [1, 3])
async def test_fragments_are_the_same_when_another_process_goes_on(words: tuple[str, ...], first: int) -> None:
    whole, _ = await play(rollouts(*words), rounds(range(LANES), ROUNDS))
    table = await made(rollouts(*words), rounds(range(LANES), first))
    later, failures = await play(rollouts(*words), going_on(followed(table), first, ROUNDS - first))
    assert not failures
    assert later == {name: row for name, row in whole.items() if name in later} and len(later) < len(whole)
    assert any(row["recurrent_state"].strip(b"\0") for row in later.values()) == (words == MEMORY)


async def test_a_worker_that_was_in_the_lane_before_follows_the_trail_and_not_its_memory() -> None:
    whole, _ = await play(rollouts(), rounds(range(LANES), 4))
    table = await made(rollouts(), rounds(range(LANES), 3))
    running = rollouts()
    for one in rounds(range(LANES), 1):
        running.start(one)
    while running.in_flight:
        await running.step()
    running.take()
    later, _ = await play(running, going_on(followed(table), 3, 1))
    assert later == {name: row for name, row in whole.items() if name in later}


async def test_an_environment_that_does_not_repeat_itself_fails_the_fragment_and_begins_anew() -> None:
    words = ("environment.backend.id=headrace/Forgetful-v0",)
    table = await made(rollouts(*words), rounds([0], 1))
    trail = followed(table).of(0)
    running = rollouts(*words)
    rows, failures = await play(running, [replace(unit(0, 1), trail=trail), unit(0, 1, attempt=1)])
    (failure,) = failures
    assert failure.retry and "shows something else after the 20 recorded steps" in failure.reason
    assert list(rows) == ["env:1:0:0.1.0"]


async def test_lanes_that_cannot_repeat_an_episode_begin_anew_and_fail_nothing() -> None:
    words = ("environment.backend.target=envpool",)
    trail = followed(await made(rollouts(), rounds([0], 1))).of(0)
    assert trail is not None
    rows, failures = await play(rollouts(*words), [replace(unit(0, 1), trail=trail)])
    assert not failures
    stood = json.loads(rows["env:1:0:0.0.0"]["metadata"])["environment"]
    assert stood["step"] == 0 and stood["seed"] != trail.seed


async def test_an_environment_that_breaks_on_the_way_says_so_and_begins_anew() -> None:
    words = ("environment.backend.id=headrace/Brittle-v0",)
    table = await made(rollouts(*words), rounds([0], 1))
    rows, failures = await play(
        rollouts(*words), [replace(unit(0, 1), trail=followed(table).of(0)), unit(0, 1, attempt=1)]
    )
    (failure,) = failures
    assert failure.retry and "the save file is gone" in failure.reason
    assert list(rows) == ["env:1:0:0.1.0"]


async def test_an_episode_that_ends_on_the_way_is_noticed() -> None:
    table = await made(rollouts(), rounds([0], 1))
    trail = next(t for t in [followed(table).of(0)] if t)
    longer = Trail(
        seed=trail.seed, episode=0, actions=np.zeros((600, 1), np.float32), state=trail.state, shown=trail.shown
    )
    rows, failures = await play(rollouts(), [replace(unit(0, 1), trail=longer)])
    assert not rows and "ends before the 600 recorded steps" in failures[0].reason


async def test_a_lost_first_attempt_changes_no_seed() -> None:
    first, _ = await play(rollouts(), [unit(0, 0)])
    again, _ = await play(rollouts(), [unit(0, 0, attempt=1)])
    assert first["env:0:0:0.0.0"]["observations"] == again["env:0:0:0.1.0"]["observations"]


def test_a_gap_leaves_no_trail_until_an_episode_begins() -> None:
    trails = Trails()
    long = piece(0, (7, 0), (7, 4))
    trails.follow(long)
    trails.follow(piece(0, (7, 8), (7, 12)))
    assert trails.of(0) is None, "the four steps before are not there"
    trails.follow(piece(0, (7, 12), (9, 1)))
    found = trails.of(0)
    assert found is not None and (found.seed, found.actions.tolist()) == (9, [[3.0]])
    trails.follow(piece(0, (9, 1), (9, 5)))
    found = trails.of(0)
    assert found is not None and found.actions.tolist() == [[3.0], [0.0], [1.0], [2.0], [3.0]]
    trails.follow(piece(0, (8, 5), (8, 9)))
    assert trails.of(0) is None, "five steps before it as well, of another episode"
    trails.follow(piece(0, (8, 9), (9, 1)))
    assert trails.of(0) is not None
    trails.forget(0)
    assert trails.of(0) is None


def piece(lane: int, came_from: tuple[int, int], leads_to: tuple[int, int]) -> Any:
    (found,) = pieces(row(lane, 0, 0, came_from, leads_to))
    return found


def row(
    lane: int, turn: int, attempt: int, came_from: tuple[int, int], leads_to: tuple[int, int], mark: float = 0.0
) -> pa.Table:
    """Return a stored fragment of four steps, whose actions are 0, 1, 2, 3, each with a mark on top."""
    note = {
        "environment": {"seed": came_from[0], "step": came_from[1], "episode": 0},
        "left": {"seed": leads_to[0], "step": leads_to[1], "episode": 0, "shown": "s"},
    }
    plain: dict[str, Any] = {f.name: None if f.nullable else filler(f.type) for f in TRAJECTORY}
    actions = [mark + t for t in range(4)]
    plain |= {
        "source": "env", "epoch": turn, "task": lane, "attempt": attempt, "num_sampled": 4,
        "id": f"env:{turn}:{lane}:0.{attempt}.0",
        "metadata": json.dumps(note), "actions": actions, "last_state": np.full(2, mark, np.float32).tobytes(),
    }  # fmt: skip
    return pa.Table.from_pylist([plain], schema=TRAJECTORY)


def filler(kind: pa.DataType) -> Any:
    return "" if pa.types.is_string(kind) else [] if pa.types.is_list(kind) else 0


def store(folder: Path, epoch: int, *rows: pa.Table) -> None:
    writer = SegmentWriter(folder / "trajectories", "trajectories", TRAJECTORY, run_epoch=epoch, segment_bytes=3000)
    for one in rows:
        writer.append(one).result(20.0)
    writer.close()


@pytest.mark.parametrize("at_once", [False, True])
def test_one_walks_back_past_what_was_rolled_back(at_once: bool, tmp_path: Path) -> None:
    other = row(1, 0, 0, (5, 0), (5, 4))
    first = [row(0, turn, 0, (7, 4 * turn), (7, 4 * turn + 4), mark=10.0 * turn) for turn in range(5)]
    # As many steps into another episode: what follows does not begin there.
    first.insert(1, row(0, 9, 0, (8, 0), (8, 4), mark=900.0))
    store(tmp_path, 1, *([pa.concat_tables([other, *first])] if at_once else [other, *first]))
    # A resume after round 1: rounds 2 and 3 were played again, with the same seeds.
    store(tmp_path, 2, *(row(0, turn, 1, (7, 4 * turn), (7, 4 * turn + 4), mark=100.0 * turn) for turn in (2, 3)))
    kept = {0: {"env:0:0:0.0.0", "env:1:0:0.0.0", "env:2:0:0.1.0"}, 1: {"env:0:1:0.0.0"}, 2: {"retired"}}
    trails = trails_of(tmp_path, kept)
    found = trails.of(0)
    assert found is not None
    marks = [mark + t for mark in (0.0, 10.0, 200.0) for t in range(4)]
    assert found.actions.ravel().tolist() == marks and found.state.tolist() == [200.0, 200.0]
    found = trails.of(1)
    assert found is not None and len(found.actions) == 4
    assert trails.of(2) is None
    assert trails_of(tmp_path / "nowhere", {}).of(0) is None


def test_a_lane_whose_first_fragments_are_gone_has_no_trail(tmp_path: Path) -> None:
    store(tmp_path, 1, row(0, 1, 0, (7, 4), (7, 8)))
    assert trails_of(tmp_path, {0: {"env:1:0:0.0.0"}}).of(0) is None


def member(lane: int, turn: int) -> Member:
    return Member(slot=Slot("env", turn, lane, 0))


def test_a_lane_moves_with_its_trail_once_nothing_of_it_is_under_way() -> None:
    affinity = ByLane(1)
    affinity.workers(["a", "b"])
    assert affinity.taken(member(0, 0), "a") is None
    affinity.brought(row(0, 0, 0, (7, 0), (7, 4)))
    assert affinity.taken(member(0, 1), "a") is None, "it stands there itself"
    affinity.workers(["b"])  # `a` is leaving, and has yet to bring a fragment
    assert not affinity.may_take(member(0, 2), "b")
    affinity.brought(row(0, 1, 0, (7, 4), (7, 8)))
    assert affinity.may_take(member(0, 2), "b")
    trail = affinity.taken(member(0, 2), "b")
    assert trail is not None and len(trail.actions) == 8
    affinity.lost("b")
    affinity.workers(["c"])
    assert affinity.may_take(member(0, 2), "c")
    again = affinity.taken(member(0, 2), "c")
    assert again is not None and len(again.actions) == 8, "what b had not brought is done again"
    affinity.failed(Slot("env", 2, 0, 0))
    affinity.lost("c")
    assert affinity.taken(member(0, 2), "c") is None, "its environment broke"

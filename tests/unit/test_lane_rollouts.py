"""Fragments are a function of their slot and the weights: not of who else acts, nor of how the work is divided."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pytest

sys.path.append(str(Path(__file__).parent))
from lane_scene import LANES, play, rollouts, rounds, unit

from actors.lane_rollouts import LaneRollouts
from buffers.fragment import read_fragments
from buffers.tables import TRAJECTORY


class Fragile(gymnasium.Env[Any, Any]):
    """Breaks at the third step of every episode whose seed is odd; truncates after seven steps otherwise."""

    observation_space = gymnasium.spaces.Box(-1e9, 1e9, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, breaks: bool = True) -> None:
        self.breaks = breaks

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.fragile, self.at = self.breaks and (seed or 0) % 2 == 1, 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        if self.fragile and self.at == 3:
            raise RuntimeError("the dungeon collapsed")
        return self.seen(), 1.0, False, self.at == 7, {}

    def seen(self) -> Any:
        return np.array([self.at, self.fragile], np.float32)


gymnasium.register("headrace/Fragile-v0", entry_point=Fragile)


async def test_the_same_fragments_come_of_one_worker_or_three_and_of_one_half_or_two() -> None:
    whole, _ = await play(rollouts(), rounds(range(LANES)))
    shares = [(await play(rollouts(), rounds(lanes)))[0] for lanes in ([0, 3], [1, 2, 5], [4])]
    assert {name: row for share in shares for name, row in share.items()} == whole
    assert (await play(rollouts("environment.halves=2"), rounds(range(LANES))))[0] == whole
    assert (await play(rollouts("seed=1"), rounds(range(LANES))))[0] != whole


async def test_a_lane_goes_on_where_its_last_fragment_ended() -> None:
    running = rollouts()
    rows, _ = await play(running, rounds([2]))
    before, after = (decoded(running, rows, f"env:{turn}:2:0.0.0") for turn in (0, 1))
    for name, shown in before.observations.items():
        np.testing.assert_array_equal(shown[0, -1], after.observations[name][0, 0])


async def test_returns_lengths_and_ends_of_episodes_add_up() -> None:
    running = rollouts()
    rows, _ = await play(running, rounds([0], 8))
    steps = [decoded(running, rows, f"env:{turn}:0:0.0.0") for turn in range(8)]
    ended = np.concatenate([s.terminated[0] | s.truncated[0] for s in steps])
    lengths = np.diff(np.flatnonzero(ended), prepend=-1).tolist()
    told = [episode for turn in range(8) for episode in note(rows[f"env:{turn}:0:0.0.0"])["episodes"]]
    assert [length for _, length, _ in told] == lengths
    assert [total for total, _, _ in told] == lengths  # CartPole pays 1 per step


async def test_a_broken_instance_fails_its_fragment_only_and_its_lane_begins_anew() -> None:
    running = rollouts("environment.backend.id=headrace/Fragile-v0")
    rows, failures = await play(running, rounds(range(LANES), 4))
    assert failures and len(rows) + len(failures) == 4 * LANES
    assert all("the dungeon collapsed" in f.reason and f.retry for f in failures)
    failed = {f"{f.slot}.0.0" for f in failures}
    for turn, lane in ((t, n) for t in range(1, 4) for n in range(LANES)):
        stood = f"env:{turn - 1}:{lane}:0.0.0"
        if stood in failed and (name := f"env:{turn}:{lane}:0.0.0") in rows:
            assert note(rows[name])["environment"]["step"] == 0


async def test_what_a_truncated_episode_last_showed_is_kept_beside_the_reset() -> None:
    running = rollouts("environment.backend.id=headrace/Fragile-v0", "environment.backend.options.breaks=false")
    rows, _ = await play(running, rounds(range(LANES), 4))
    seen = 0
    for name in rows:
        found = decoded(running, rows, name)
        finals = found.final_observations["observation"]
        assert len(finals) == found.truncated.sum()
        assert (finals[:, 0] == 7).all()
        following = found.observations["observation"][0, 1:][found.truncated[0]]
        assert (following[:, 0] == 0).all()
        seen += len(finals)
    assert seen > LANES


async def test_a_slot_of_a_lane_that_is_not_there_is_refused() -> None:
    running = rollouts()
    with pytest.raises(Exception, match="asks for lane 6; there are 6"):
        running.start(unit(6, 0))
    await running.close()


@pytest.mark.parametrize("scope", ["episode", "lifetime"])
async def test_captions_are_counted_within_their_episode_or_for_life(scope: str) -> None:
    words = ["environment.backend.id=MiniGrid-DoorKey-5x5-v0", "environment.captions.target=minigrid"]
    # Episodes of DoorKey-5x5 end after 250 steps: a fragment sees one end.
    running = rollouts(*words, f"exploration.count_scope={scope}", "environment.fragment_length=300")
    rows, _ = await play(running, rounds([0], 1))
    (row,) = rows.values()
    seen: Counter[str] = Counter()
    ended = np.array(row["terminated"]) | np.array(row["truncated"])
    for caption, count, end in zip(row["captions"], row["caption_counts"], ended, strict=True):
        seen[caption] += 1
        assert not caption or count == seen[caption]
        if end and scope == "episode":
            seen.clear()
    assert ended.any() and max(row["caption_counts"]) > 1


def decoded(running: LaneRollouts, rows: dict[str, dict[str, Any]], name: str) -> Any:
    row = {key: [value] for key, value in rows[name].items()}
    return read_fragments(running._lanes.spec, pa.table(row, schema=schema_of(row)))


def schema_of(row: dict[str, Any]) -> pa.Schema:
    return pa.schema([TRAJECTORY.field(name) for name in row])


def note(row: dict[str, Any]) -> Any:
    return json.loads(row["metadata"])

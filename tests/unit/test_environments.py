"""One suite over every backend of environments, and what each does in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from actors.environments import build, describe
from actors.environments.base import Lanes, Steps
from configs.decision import EnvironmentConfig
from configs.errors import RunError

NLE_KEYS = {"observation_keys": ["glyphs", "blstats", "message"]}
BACKENDS: dict[str, dict[str, Any]] = {
    "cartpole": {"target": "gymnasium", "id": "CartPole-v1"},
    "minigrid": {"target": "gymnasium", "id": "MiniGrid-LavaGapS5-v0"},
    "pendulum": {"target": "gymnasium", "id": "Pendulum-v1"},
    "nethack": {"target": "gymnasium", "id": "NetHackScore-v0", "wrappers": ["nethack"], "options": NLE_KEYS},
    "envpool cartpole": {"target": "envpool", "id": "CartPole-v1"},
    "envpool minigrid": {"target": "envpool", "id": "MiniGrid-LavaGapS5-v0", "keys": ["image", "direction"]},
}
EVERY = pytest.mark.parametrize("name", BACKENDS)
SEEDS = (11, 12, 13, 14)
STEPS = 40


def section(name: str, limit: int = 25, **settings: Any) -> EnvironmentConfig:
    backend = BACKENDS[name]
    options = {**backend.get("options", {}), "max_episode_steps": limit}
    return EnvironmentConfig(backend={**backend, "options": options}, **settings)


def actions_of(lanes: Lanes, seed: int) -> np.ndarray:
    """STEPS random actions [STEPS, A], the same for the same seed."""
    rng, spec = np.random.default_rng(seed), lanes.spec.actions
    low, high = (np.zeros(1), np.array(spec.sizes)) if spec.sizes else (np.array(spec.low), np.array(spec.high))
    drawn = rng.uniform(low, high, (STEPS, spec.columns))
    return (np.floor(drawn) if spec.sizes else drawn).astype(np.float32)


@dataclass
class Trace:
    """What one place went through."""

    shown: list[dict[str, np.ndarray]] = field(default_factory=list)
    outcome: list[tuple[float, bool, bool]] = field(default_factory=list)
    finals: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def look(self, lanes: Lanes, place: int) -> None:
        self.shown.append({name: array[place].copy() for name, array in lanes.observations.items()})

    def note(self, steps: Steps, i: int) -> None:
        if i in steps.finals:
            self.finals[len(self.outcome)] = steps.finals[i]
        self.outcome.append((float(steps.rewards[i]), bool(steps.terminated[i]), bool(steps.truncated[i])))


def play(settings: EnvironmentConfig, rounds: Sequence[Sequence[int]], size: int = 4) -> dict[int, Trace]:
    """Play SEEDS at places 0, 1, ... of `size`; in every step the places act in `rounds`, one after the other."""
    lanes = build(settings, size, 0)
    traces, actions = {p: Trace() for p in sorted(place for places in rounds for place in places)}, {}
    for place in traces:
        lanes.reset(place, SEEDS[place])
        actions[place] = actions_of(lanes, SEEDS[place])
    for place, trace in traces.items():
        trace.look(lanes, place)
    for t in range(STEPS):
        for places in (np.array(r) for r in rounds):
            next_seeds = [SEEDS[p] + 100 * (t + 1) for p in places]
            lanes.send(places, np.stack([actions[p][t] for p in places.tolist()]), next_seeds)
            steps = lanes.recv(places)
            for i, place in enumerate(places.tolist()):
                traces[place].note(steps, i)
                traces[place].look(lanes, place)
    lanes.close()
    return traces


def assert_same(a: Trace, b: Trace) -> None:
    assert a.outcome == b.outcome
    assert a.finals.keys() == b.finals.keys()
    pairs = [*zip(a.shown, b.shown, strict=True), *((a.finals[t], b.finals[t]) for t in a.finals)]
    for one, other in pairs:
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@EVERY
def test_the_same_seed_plays_the_same_game_whoever_else_is_asked(name: str) -> None:
    together = play(section(name), [[0, 1, 2, 3]])
    apart = play(section(name, halves=2), [[3, 1], [2], [0]], size=6)
    alone = play(section(name), [[2]])
    for place in range(4):
        assert_same(together[place], apart[place])
    assert_same(together[2], alone[2])
    assert not np.array_equal(together[0].outcome, together[1].outcome) or any(
        not np.array_equal(together[0].shown[-1][n], together[1].shown[-1][n]) for n in together[0].shown[-1]
    )


@EVERY
def test_an_episode_that_runs_out_of_time_is_truncated_and_shows_its_last_observation(name: str) -> None:
    cut, whole = play(section(name, limit=9), [[0, 1, 2, 3]]), play(section(name, limit=1000), [[0, 1, 2, 3]])
    # A place whose episode ended by itself in these nine steps is compared elsewhere.
    lasting = [p for p, trace in whole.items() if not any(over for _, over, _ in trace.outcome[:9])]
    assert lasting
    for place in lasting:
        assert [flags for _, *flags in cut[place].outcome[:9]] == [[False, False]] * 8 + [[False, True]]
        for observed, array in cut[place].finals[8].items():
            np.testing.assert_array_equal(array, whole[place].shown[9][observed])
            assert array.shape == whole[place].shown[9][observed].shape


@EVERY
def test_finals_are_given_exactly_where_an_episode_was_truncated(name: str) -> None:
    for trace in play(section(name, limit=9), [[0, 1, 2, 3]]).values():
        assert sorted(trace.finals) == [t for t, (_, _, cut) in enumerate(trace.outcome) if cut]
        assert any(over or cut for _, over, cut in trace.outcome)
        assert not any(over and cut for _, over, cut in trace.outcome)


@EVERY
def test_an_ended_episode_is_followed_at_once_by_a_fresh_one(name: str) -> None:
    traces = play(section(name, limit=9), [[0, 1, 2, 3]])
    again = play(section(name, limit=9), [[0, 1, 2, 3]])
    for place, trace in traces.items():
        ends = [t for t, (_, over, cut) in enumerate(trace.outcome) if over or cut]
        assert all(b - a <= 9 for a, b in zip([-1, *ends], ends, strict=False))  # none is spent on a reset
        assert_same(trace, again[place])


@pytest.mark.parametrize("name", [n for n in BACKENDS if BACKENDS[n]["target"] == "gymnasium"])
def test_a_fresh_episode_is_that_of_the_seed_given_with_the_step(name: str) -> None:
    trace = play(section(name, limit=9), [[0]])[0]
    end = next(t for t, (_, over, cut) in enumerate(trace.outcome) if over or cut)
    lanes = build(section(name), 1, 0)
    lanes.reset(0, SEEDS[0] + 100 * (end + 1))
    for observed, array in lanes.observations.items():
        np.testing.assert_array_equal(array[0], trace.shown[end + 1][observed])
    lanes.close()


@EVERY
def test_the_description_fits_what_is_shown(name: str) -> None:
    spec, lanes = describe(section(name)), build(section(name), 2, 0)
    assert lanes.spec == spec
    assert spec.name == BACKENDS[name]["id"]
    for observed, array in lanes.observations.items():
        assert array.shape == (2, *spec.observations[observed].shape)
        assert array.dtype == spec.observations[observed].dtype
    lanes.close()


@EVERY
def test_observations_are_written_in_place(name: str) -> None:
    lanes = build(section(name), 2, 0)
    lanes.reset(0, 1), lanes.reset(1, 2)
    held = dict(lanes.observations)
    before = {n: a.copy() for n, a in held.items()}
    for _ in range(9):  # one step may show nothing new
        lanes.send(np.arange(2), actions_of(lanes, 3)[:2], [1, 2])
        lanes.recv(np.arange(2))
    assert all(lanes.observations[n] is held[n] for n in held)
    assert any(not np.array_equal(before[n], held[n]) for n in held)
    lanes.close()


@EVERY
def test_a_place_that_begins_again_leaves_the_others_alone(name: str) -> None:
    lanes = build(section(name, halves=2), 4, 0)
    for place in range(4):
        lanes.reset(place, SEEDS[place])
    first = {n: a.copy() for n, a in lanes.observations.items()}
    lanes.send(np.arange(4), actions_of(lanes, 3)[:4], [1] * 4)
    lanes.recv(np.arange(4))
    stepped = {n: a.copy() for n, a in lanes.observations.items()}
    lanes.reset(2, SEEDS[2])
    for n, array in lanes.observations.items():
        np.testing.assert_array_equal(array[2], first[n][2])
        np.testing.assert_array_equal(array[[0, 1, 3]], stepped[n][[0, 1, 3]])
    lanes.close()


class Countdown(gymnasium.Env[Any, Any]):
    """Action 0 goes on, 1 ends the episode, 2 raises; a seed of 13 cannot begin."""

    observation_space = spaces.Box(0, 100, (2,), np.float64)
    action_space = spaces.Discrete(3)
    closed: ClassVar[list[int]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed == 13:
            raise OSError("no luck")
        self.seed, self.at = seed, 0
        return np.array([seed, 0.0]), {}

    def step(self, action: int) -> Any:
        self.at += 1
        if action == 2:
            raise KeyError("broken")
        info = {"caption": f"step {self.at}"} | ({"success": self.at > 1} if action == 1 else {})
        return np.array([self.seed, self.at]), float(self.at), action == 1, False, info

    def close(self) -> None:
        self.closed.append(1)


@pytest.fixture
def countdown() -> Iterator[Lanes]:
    gymnasium.register("Countdown-v0", Countdown, max_episode_steps=5)
    Countdown.closed.clear()
    settings = EnvironmentConfig(backend={"target": "gymnasium", "id": "Countdown-v0"}, captions={"target": "info"})
    lanes = build(settings, 3, 0)
    for place in range(3):
        lanes.reset(place, place)
    yield lanes
    lanes.close()
    del gymnasium.registry["Countdown-v0"]


def step(lanes: Lanes, *actions: int, seeds: Sequence[int] = (50, 51, 52)) -> Steps:
    places = np.arange(len(actions))
    lanes.send(places, np.array(actions, np.float32)[:, None], seeds)
    return lanes.recv(places)


def test_terminated_and_truncated_are_told_apart(countdown: Lanes) -> None:
    for _ in range(4):
        assert not (step(countdown, 0, 0, 0).truncated).any()
    steps = step(countdown, 0, 1, 0)
    # The second one ended by itself on the last allowed step: that is no truncation.
    assert steps.truncated.tolist() == [True, False, True]
    assert steps.terminated.tolist() == [False, True, False]
    assert {i: f["observation"].tolist() for i, f in steps.finals.items()} == {0: [0.0, 5.0], 2: [2.0, 5.0]}
    assert countdown.observations["observation"].tolist() == [[50, 0], [51, 0], [52, 0]]
    assert countdown.observations["observation"].dtype == np.float32


def test_success_is_told_only_where_the_environment_tells(countdown: Lanes) -> None:
    assert step(countdown, 0, 1, 0).successes == {1: False}
    assert step(countdown, 0, 0, 1).successes == {2: True}


def test_captions_are_of_the_step_and_not_of_the_fresh_episode(countdown: Lanes) -> None:
    assert countdown.has_captions
    assert step(countdown, 0, 1, 0).captions == ["step 1"] * 3
    assert step(countdown, 0, 0, 0).captions == ["step 2", "step 1", "step 2"]


def test_an_environment_that_raises_is_replaced_and_the_others_go_on(countdown: Lanes) -> None:
    steps = step(countdown, 0, 2, 0)
    assert steps.errors == {1: "Countdown-v0 at place 1: KeyError('broken')"}
    assert np.isnan(steps.rewards).tolist() == [False, True, False]
    assert Countdown.closed == [1]
    countdown.reset(1, 77)
    assert step(countdown, 0, 0, 0).rewards.tolist() == [2, 1, 2]
    assert countdown.observations["observation"][:, 0].tolist() == [0, 77, 2]


def test_an_environment_that_cannot_begin_its_next_episode_is_an_error_of_the_step(countdown: Lanes) -> None:
    steps = step(countdown, 1, 0, 1, seeds=(13, 14, 15))
    assert list(steps.errors) == [0]
    assert steps.terminated.tolist() == [True, False, True]
    with pytest.raises(RunError, match=r"Countdown-v0 at place 0 cannot begin with seed 13: OSError\('no luck'\)"):
        countdown.reset(0, 13)
    countdown.reset(0, 12)
    assert step(countdown, 0, 0, 0).rewards.tolist() == [1, 2, 1]


@pytest.mark.parametrize("name", ["cartpole", "envpool cartpole"])
def test_a_place_that_has_not_begun_cannot_step(name: str) -> None:
    lanes = build(section(name), 2, 0)
    lanes.reset(0, 1)
    with pytest.raises(RunError, match="CartPole-v1: place 1 steps before it was reset"):
        step(lanes, 0, 0)
    lanes.close()

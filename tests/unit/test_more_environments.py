"""Environments of the extra `more-envs`, where it is installed: each by id, seeded, and told apart at its end."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from actors.environments import build
from actors.environments.base import Lanes, Steps
from configs.decision import EnvironmentConfig

BACKENDS: dict[str, dict[str, Any]] = {
    "minihack": {
        "id": "MiniHack-Room-Random-5x5-v0",
        "wrappers": ["nethack"],
        "options": {"observation_keys": ["glyphs", "blstats", "message"]},
    },
    "crafter": {"id": "CrafterReward-v1", "options": {"length": 12}},
    "ale_py": {"id": "ALE/Breakout-v5", "options": {"max_episode_steps": 12}},
}
PLACES = np.arange(2)


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed; `pip install -e '.[more-envs]'` installs it")
    return str(request.param)


def begin(name: str, *seeds: int) -> Lanes:
    lanes = build(
        EnvironmentConfig(backend={"target": "gymnasium", **BACKENDS[name]}, captions={"target": "info"}), 2, 0
    )
    for place, seed in enumerate(seeds):
        lanes.reset(place, seed)
    return lanes


def play(lanes: Lanes, steps: int) -> tuple[list[dict[str, np.ndarray]], list[Steps]]:
    rng, shown, went = np.random.default_rng(3), [], []
    for _ in range(steps):
        shown.append({n: a.copy() for n, a in lanes.observations.items()})
        action = rng.integers(0, lanes.spec.actions.sizes[0])
        lanes.send(PLACES, np.full((2, 1), action, np.float32), [70, 70])
        went.append(lanes.recv(PLACES))
    return shown, went


def test_the_same_seed_plays_the_same_game(name: str) -> None:
    lanes = begin(name, 5, 5)
    shown, went = play(lanes, 30)
    assert all((array[0] == array[1]).all() for now in shown for array in now.values())
    assert all(steps.rewards[0] == steps.rewards[1] and not steps.errors for steps in went)
    # Later episodes of a place do not follow from those before.
    again, _ = play(begin(name, 70, 71), 1)
    end = next((t for t, steps in enumerate(went) if steps.terminated[0] or steps.truncated[0]), None)
    if end is not None:
        assert all((array[0] == shown[end + 1][n][0]).all() for n, array in again[0].items())


@pytest.mark.parametrize("name", ["crafter"], indirect=True)
def test_crafter_runs_out_of_time_and_names_achievements(name: str) -> None:
    lanes = begin(name, 5, 6)
    _, went = play(lanes, 60)
    assert [bool(steps.truncated.all()) for steps in went] == [t % 12 == 11 for t in range(60)]
    assert not any(steps.terminated.any() for steps in went)
    said = {text for steps in went for text in steps.captions}
    assert "" in said
    assert all(text.startswith("you ") for text in said - {""})
    assert len(said) > 1

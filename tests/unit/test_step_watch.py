"""A call of the environments that does not return is told by another thread, with its place."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest

from actors.environments import build
from actors.environments.base import Lanes
from actors.evaluate_lanes import LaneEvaluator
from actors.policy_engine import PolicyEngine
from actors.step_watch import StepWatch
from configs.decision import EnvironmentConfig
from configs.errors import DeadlineExceeded
from learners.models.decision import build_policy

WAIT_S = 30.0


class Stuck(gymnasium.Env[Any, Any]):
    """The third instance stops in its step, and goes on when the test says so."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    inside, released = threading.Event(), threading.Event()
    built = 0

    def __init__(self) -> None:
        self.number = Stuck.built
        Stuck.built += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        if self.number == 2:
            Stuck.inside.set()
            assert Stuck.released.wait(WAIT_S)
        return np.zeros(1, np.float32), 0.0, False, False, {}


gymnasium.register("headrace/Stuck-v0", entry_point=Stuck)


@pytest.fixture
def stuck() -> Lanes:
    """Four places, of which the third that is reset gets stuck in its first step."""
    Stuck.built = 0
    Stuck.inside.clear()
    Stuck.released.clear()
    return build(EnvironmentConfig(backend={"target": "gymnasium", "id": "headrace/Stuck-v0"}), 4, seed=0)


def test_a_step_that_hangs_is_named_by_environment_place_and_seconds(stuck: Lanes) -> None:
    lanes, now = stuck, [100.0]
    watch = StepWatch(lanes, 5.0, clock=lambda: now[0])
    places = np.array([3, 1, 2, 0])
    for place in (3, 1, 2, 0):  # so that place 2 gets the third instance
        lanes.reset(place, seed=0)

    def step() -> None:
        with watch:
            lanes.send(places, np.zeros((4, 1), np.float32), [0] * 4)
            lanes.recv(places)

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    assert Stuck.inside.wait(WAIT_S)
    now[0] = 105.0
    watch.check()
    now[0] = 106.0
    with pytest.raises(DeadlineExceeded, match=r"headrace/Stuck-v0 hangs at place 2: no answer for 6 s .*=5\)"):
        watch.check()
    Stuck.released.set()
    thread.join(WAIT_S)
    now[0] = 200.0
    watch.check()


def test_an_evaluation_that_hangs_is_told_by_its_heartbeat(stuck: Lanes) -> None:
    engine = PolicyEngine(build_policy("mlp", stuck.spec, 0), stuck.spec, slots=16)
    evaluator = LaneEvaluator(engine, stuck, episodes=4, greedy=False, seed=0, deadline_s=0.0, step_deadline_s=1e-9)
    assert evaluator.ping() == {"version": -1}

    def evaluate() -> None:
        with contextlib.suppress(DeadlineExceeded):  # the episodes never end
            asyncio.run(evaluator.measure(0))

    thread = threading.Thread(target=evaluate, daemon=True)
    thread.start()
    assert Stuck.inside.wait(WAIT_S)
    with pytest.raises(DeadlineExceeded, match="headrace/Stuck-v0 hangs at place 2"):
        evaluator.ping()
    Stuck.released.set()
    thread.join(WAIT_S)
    assert evaluator.ping() == {"version": -1}


def test_a_reset_is_watched_by_its_place() -> None:
    lanes = build(EnvironmentConfig(backend={"target": "gymnasium", "id": "CartPole-v1"}), 4, seed=0)
    lanes.reset(3, seed=0)
    assert lanes.under_way() == "place 3"
    lanes.close()


def test_an_error_that_the_environments_raise_ends_the_watch() -> None:
    lanes = build(EnvironmentConfig(backend={"target": "gymnasium", "id": "CartPole-v1"}), 1, seed=0)
    now = [0.0]
    watch = StepWatch(lanes, 5.0, clock=lambda: now[0])
    with pytest.raises(KeyError), watch:
        lanes.recv(np.array([0]))
    now[0] = 100.0
    watch.check()
    lanes.close()

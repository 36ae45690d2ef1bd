"""Decision agents learn, in one process: CartPole by V-trace and a clip, and a maze that takes a memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "unit"))
from decision_tables import configuration

from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from buffers.fragment import Fragment, fragments_to_table
from buffers.identity import Slot
from learners.decision_learner import DecisionLearner

pytestmark = pytest.mark.integration
LANES = 16
Step = tuple[np.ndarray, float, bool, bool]


class CartPole:
    """One lane of CartPole."""

    spec = EnvironmentSpec("CartPole-v1", {"seen": ArraySpec((4,), "float32")}, ActionSpec("discrete", (2,)))

    def __init__(self, seed: int) -> None:
        self._env = gymnasium.make("CartPole-v1")
        self._seed: int | None = seed

    def reset(self) -> np.ndarray:
        seed, self._seed = self._seed, None
        return self._env.reset(seed=seed)[0]

    def step(self, action: int) -> Step:
        seen, reward, terminated, truncated, _ = self._env.step(action)
        return seen, float(reward), terminated, truncated


class TMaze:
    """A corridor of four cells: a sign in the first says which way to turn at the last, for 1 or else -1."""

    spec = EnvironmentSpec("TMaze", {"seen": ArraySpec((2,), "float32")}, ActionSpec("discrete", (2,)))

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self._sign, self._at = int(self._rng.integers(2)), 0
        return np.array([2 * self._sign - 1, 0], np.float32)

    def step(self, action: int) -> Step:
        self._at += 1
        ended = self._at == 4
        reward = (1.0 if action == self._sign else -1.0) if ended else 0.0
        return np.array([0, self._at == 3], np.float32), reward, ended, False


class Collector:
    """Lanes side by side, and the returns of their episodes."""

    def __init__(self, make: Callable[[int], CartPole | TMaze], learner: DecisionLearner, steps: int) -> None:
        self._lanes = [make(seed) for seed in range(LANES)]
        self._learner, self._steps, self._spec = learner, steps, self._lanes[0].spec
        self._rng = np.random.default_rng(0)
        self._seen = np.stack([lane.reset() for lane in self._lanes])
        self._state = torch.zeros(LANES, learner.network.state_size)
        self._running = np.zeros(LANES)
        self.returns: list[float] = []

    @torch.inference_mode()
    def fragments(self, number: int) -> list[Fragment]:
        """Act for `steps` steps in every lane."""
        begun = [self._begin(lane, number) for lane in range(LANES)]
        for t in range(self._steps):
            for fragment, seen in zip(begun, self._seen, strict=True):
                fragment.observations["seen"][t] = seen
            actions, logprobs = self._act()
            for lane, fragment in enumerate(begun):
                fragment.actions[t], fragment.logprobs[t] = actions[lane], logprobs[lane]
                self._step(lane, fragment, t)
        for fragment, seen in zip(begun, self._seen, strict=True):
            fragment.observations["seen"][-1] = seen
        return begun

    def _begin(self, lane: int, number: int) -> Fragment:
        T, version = self._steps, self._learner.version
        return Fragment(
            slot=Slot(self._spec.name, number, lane, 0), attempt=0, versions=[(version, T)],
            observations=self._spec.empty(T + 1), actions=np.zeros((T, 1), np.float32),
            logprobs=np.zeros(T, np.float32), rewards=np.zeros(T, np.float32),
            terminated=np.zeros(T, np.bool_), truncated=np.zeros(T, np.bool_),
            final_observations=self._spec.empty(0), recurrent_state=self._state[lane].numpy().copy(),
        )  # fmt: skip

    def _act(self) -> tuple[np.ndarray, np.ndarray]:
        network = self._learner.network
        parameters, _, self._state = network.step({"seen": torch.from_numpy(self._seen)}, self._state)
        noise = torch.from_numpy(self._rng.random((LANES, network.distribution.noise), np.float32))
        actions = network.distribution.sample(parameters, noise)
        return actions.numpy(), network.distribution.logprobs(parameters, actions).numpy()

    def _step(self, lane: int, f: Fragment, t: int) -> None:
        seen, f.rewards[t], f.terminated[t], f.truncated[t] = self._lanes[lane].step(int(f.actions[t, 0]))
        self._running[lane] += f.rewards[t]
        if f.terminated[t] or f.truncated[t]:
            if f.truncated[t]:
                f.final_observations["seen"] = np.concatenate([f.final_observations["seen"], seen[None]])
            self.returns.append(self._running[lane])
            self._running[lane] = 0
            self._state[lane] = 0
            seen = self._lanes[lane].reset()
        self._seen[lane] = seen


def train(
    make: Callable[[int], CartPole | TMaze], updates: int, *overrides: str, steps: int = 32, lag: int = 1
) -> Collector:
    """Train on fragments that are up to `lag` updates old."""
    config = configuration(f"environment.fragment_length={steps}", "learner.max_grad_norm=0.5", *overrides)
    learner = DecisionLearner(config, make(0).spec, total_updates=updates)
    collector = Collector(make, learner, steps)
    waiting = []
    for number in range(updates):
        waiting.append(fragments_to_table(collector._spec, collector.fragments(number)))
        if len(waiting) > lag:
            learner.update(waiting.pop(0))
    return collector


def test_cartpole_is_learned_from_stale_steps():
    collector = train(CartPole, 120, "learner.learning_rate=0.0025", "learner.actor_critic.entropy_coefficient=0.005")
    before, after = np.mean(collector.returns[:50]), np.mean(collector.returns[-30:])
    assert before < 40 and after > 150, (before, after)


@pytest.mark.parametrize(
    ("policy", "solved"),
    [
        ("policy={target: mlp, hidden: [32]}", False),
        ("policy={target: mlp, hidden: [32], core: {target: gru, size: 16}}", True),
        ("policy={target: mlp, hidden: [32], core: {target: lstm, size: 16}}", True),
    ],
    ids=["mlp", "gru", "lstm"],
)
def test_a_maze_takes_a_memory(policy, solved):
    # Fragments of six steps and episodes of four: the sign is often in the fragment before.
    collector = train(TMaze, 250, policy, "learner.learning_rate=0.005", steps=6)
    success = np.mean(collector.returns[-300:])
    assert (success > 0.9) if solved else (abs(success) < 0.25), success

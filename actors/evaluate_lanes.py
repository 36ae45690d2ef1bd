"""Evaluation of a decision policy: whole episodes with one pinned weights version, beside the running stream.

Lane j plays the episodes j, j + L, j + 2L, ... to their ends, whose seeds depend on nothing else: every
version is measured on the same episodes, and long ones count as much as short ones.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from actors.environments import build as build_lanes
from actors.environments.base import Lanes, Steps
from actors.policy_engine import PolicyEngine, build_engine
from actors.step_watch import StepWatch
from buffers.fragment import Episode
from buffers.transport import Listening
from configs.errors import DeadlineExceeded
from configs.schema import RunConfig
from learners.models.weights import Layout

__all__ = ["LaneEvaluator", "build"]

SEED_BITS = (1 << 31) - 1
MOST_LANES = 32


class LaneEvaluator(Listening):
    """Answers `evaluate(packet)` with the returns of the packet's weights."""

    def __init__(
        self,
        engine: PolicyEngine,
        lanes: Lanes,
        *,
        episodes: int,
        greedy: bool,
        seed: int,
        deadline_s: float,
        success_return: float | None = None,
        step_deadline_s: float = 60.0,
    ) -> None:
        super().__init__()  # it calls nobody: returns are the environment's own
        self._engine, self._lanes, self._episodes, self._greedy = engine, lanes, episodes, greedy
        self._seed, self._deadline_s, self._success_return = seed, deadline_s, success_return
        self._watch = StepWatch(lanes, step_deadline_s)

    def ping(self) -> dict[str, Any]:
        """Answer the supervisor, maybe in another thread; raises what an episode hangs in."""
        self._watch.check()
        return {"version": self._engine.version}

    async def evaluate(self, layout: Layout, packet: Any) -> dict[str, float]:
        """Return mean return and length, success rate (NaN where nothing says what success is), and counts.

        Args:
          packet: one version of the weights, see `learners.publish`; `packet.open(layout)` gives them.

        Raises:
          DeadlineExceeded: the message says how many episodes were missing.
        """
        version, tensors = packet.open(layout)
        self._engine.load_weights(version, tensors)
        return await self.measure(version)

    async def measure(self, version: int) -> dict[str, float]:
        """Return the same of the weights that the engine holds; they are called `version`."""
        with self._watch:
            play = _Play(self._lanes, self._engine, self._episodes, self._seed, self._greedy)
        ends = asyncio.get_running_loop().time() + self._deadline_s
        while play.unfinished:
            with self._watch:
                play.step()
            await asyncio.sleep(0)  # a ping is answered between two steps
            if asyncio.get_running_loop().time() > ends:
                raise DeadlineExceeded(
                    f"evaluation of version {version}: {play.unfinished} of {self._episodes} episodes missing after "
                    f"{self._deadline_s:g} s; raise eval.deadline_s or lower environment.eval_episodes"
                )
        return self._figures(play.episodes, version)

    def _figures(self, episodes: Sequence[Episode], version: int) -> dict[str, float]:
        said = [self._success(e) for e in episodes]
        known = [float(s) for s in said if s is not None]
        return {
            "return_mean": statistics.fmean(e.extrinsic_return for e in episodes),
            "len_mean": statistics.fmean(e.length for e in episodes),
            "success_rate": statistics.fmean(known) if known else float("nan"),
            "episodes": float(len(episodes)),
            "version": float(version),
        }

    def _success(self, episode: Episode) -> bool | None:
        if episode.success is None and self._success_return is not None:
            return episode.extrinsic_return >= self._success_return
        return episode.success

    async def close(self) -> None:
        self._lanes.close()


class _Play:
    """The episodes of one evaluation."""

    def __init__(self, lanes: Lanes, engine: PolicyEngine, episodes: int, seed: int, greedy: bool) -> None:
        self.episodes: list[Episode] = []
        self._lanes, self._engine, self._greedy, self._total, self._seed = lanes, engine, greedy, episodes, seed
        size = min(lanes.size, episodes)
        self._active = np.arange(size)
        self._ordinal = np.arange(size)
        """Of the episode that each lane plays."""
        self._returns, self._lengths = np.zeros(size), np.zeros(size, np.int64)
        self._state = np.zeros((size, engine.network.state_size), np.float32)
        self._noise = np.random.Generator(np.random.Philox(key=self._key("actions")))
        for lane in range(size):
            lanes.reset(lane, self._key(str(lane)) & SEED_BITS)

    @property
    def unfinished(self) -> int:
        return self._total - len(self.episodes)

    def step(self) -> None:
        """Advance every active lane."""
        lanes = self._active
        observations = {name: array[lanes] for name, array in self._lanes.observations.items()}
        # Drawn for all lanes, so that what one does is independent of which others still play.
        noise = self._noise.random((len(self._ordinal), self._engine.network.distribution.noise), np.float32)[lanes]
        actions, _, self._state[lanes] = self._engine.act(
            observations, self._state[lanes], None if self._greedy else noise
        )
        following = [self._key(str(o + len(self._ordinal))) & SEED_BITS for o in self._ordinal[lanes].tolist()]
        self._lanes.send(lanes, actions, following)
        self._receive(lanes, self._lanes.recv(lanes))

    def _receive(self, lanes: NDArray[np.int64], steps: Steps) -> None:
        self._returns[lanes] += steps.rewards
        self._lengths[lanes] += 1 if steps.mask is None else steps.mask
        for index in np.flatnonzero(steps.terminated | steps.truncated).tolist():
            lane = int(lanes[index])
            self.episodes.append(
                Episode(
                    extrinsic_return=float(self._returns[lane]),
                    length=int(self._lengths[lane]),
                    success=steps.successes.get(index),
                )
            )
            self._advance(lane)
        for index in steps.errors:  # the instance broke: the same episode from its beginning
            lane = int(lanes[index])
            self._lanes.reset(lane, self._key(f"{self._ordinal[lane]} again") & SEED_BITS)
            self._forget(lane)

    def _advance(self, lane: int) -> None:
        self._ordinal[lane] += len(self._ordinal)
        self._forget(lane)
        if self._ordinal[lane] >= self._total:
            self._active = self._active[self._active != lane]

    def _forget(self, lane: int) -> None:
        self._returns[lane] = self._lengths[lane] = 0
        self._state[lane] = 0.0

    def _key(self, what: str) -> int:
        return int(xxhash.xxh3_64_intdigest(f"{self._seed}/eval/{what}".encode()))


def build(config: RunConfig) -> LaneEvaluator:
    """Build the evaluator inside its own process."""
    torch.set_num_threads(config.rollout.threads)
    section = config.environment
    lanes = build_lanes(section, min(section.eval_episodes, MOST_LANES), config.seed)
    return LaneEvaluator(
        build_engine(config, lanes.spec), lanes,
        episodes=section.eval_episodes, greedy=section.eval_greedy, seed=config.seed,
        deadline_s=config.eval.deadline_s, success_return=section.success_return,
        step_deadline_s=section.step_deadline_s,
    )  # fmt: skip

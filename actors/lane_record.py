"""What happens in the lanes of a worker, written down step by step.

Dimensions: L lanes of the worker, N of them in one call, T steps of a fragment, A action columns,
S numbers of recurrent state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environments.base import Steps
from actors.policy_engine import Acted
from buffers.environment_spec import EnvironmentSpec, Observations
from buffers.fragment import Episode, Fragment
from buffers.trail import Trail
from buffers.trajectory import Unit, run_lengths

__all__ = ["LaneRecord"]

Places = NDArray[np.int64]


class LaneRecord:
    """Preallocated arrays of the fragments under way, and of the episodes they are part of."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        lanes: int,
        steps: int,
        network: Any,
        *,
        captions: bool,
        count_scope: str = "episode",
        success_return: float | None = None,
    ) -> None:
        self._spec, self._steps, self._captions = spec, steps, captions
        self._success_return = success_return
        self.at = np.zeros(lanes, np.int64)
        """[L] steps of the present fragment so far."""
        self._observations: Observations = spec.empty(lanes, steps + 1)
        self._actions = np.zeros((lanes, steps, spec.actions.columns), np.float32)
        self._noise = np.zeros((lanes, steps, network.distribution.noise), np.float32)
        self._logprobs, self._rewards = np.zeros((2, lanes, steps), np.float32)
        self._terminated, self._truncated, self._mask = np.zeros((3, lanes, steps), np.bool_)
        self._versions = np.zeros((lanes, steps), np.int64)
        self._counts = np.ones((lanes, steps), np.int32)
        self._state = np.zeros((lanes, network.state_size), np.float32)
        """[L, S] now, and before the first step of the present fragment."""
        self._first_state = np.zeros_like(self._state)
        self._texts: list[list[str]] = [[] for _ in range(lanes)]
        self._finals: list[list[Observations]] = [[] for _ in range(lanes)]
        self._episodes: list[list[Episode]] = [[] for _ in range(lanes)]
        self._began: list[tuple[dict[str, int], float]] = [({}, 0.0)] * lanes
        """Where each lane stood before its fragment, and when."""
        self._returns = np.zeros(lanes, np.float64)
        self._lengths = np.zeros(lanes, np.int64)
        self._episode_seeds = np.zeros(lanes, np.int64)
        self._ordinals = np.full(lanes, -1, np.int64)
        everywhere: Counter[str] = Counter()
        self._scope = count_scope
        self._seen = [everywhere if count_scope == "lifetime" else Counter() for _ in range(lanes)]
        """Occurrences of each caption; `lifetime` counts all episodes of this worker."""

    def fresh(self, lane: int, seed: int) -> None:
        """A new episode begins in a lane."""
        self._state[lane] = 0.0
        self._returns[lane] = self._lengths[lane] = 0
        self._episode_seeds[lane] = seed
        self._ordinals[lane] += 1
        if self._scope == "episode":
            self._seen[lane].clear()

    def begin(self, lane: int, noise: np.random.Generator, now: float) -> None:
        """A new fragment begins in a lane."""
        self.at[lane] = 0
        self._noise[lane] = noise.random(self._noise.shape[1:], np.float32)
        self._first_state[lane] = self._state[lane]
        self._texts[lane], self._finals[lane], self._episodes[lane] = [], [], []
        self._began[lane] = self._stands(lane), now

    def retraced(self, lane: int, steps: Steps) -> None:
        """A lane took again, alone, a step that it took elsewhere; no fragment is under way in it."""
        self.at[lane] = 0
        self.received(np.array([lane]), steps, [0])

    def arrived(self, lane: int, trail: Trail) -> None:
        """A lane stands where a trail ends."""
        self._ordinals[lane], self._state[lane] = trail.episode, trail.state

    def inputs(self, lanes: Places) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (recurrent state [N, S], noise [N, ...]) of the next step."""
        return self._state[lanes], self._noise[lanes, self.at[lanes]]

    def acted(self, lanes: Places, observations: Mapping[str, NDArray[Any]], acted: Acted, version: int) -> None:
        """The policy of `version` saw `observations` [N, ...] and acted."""
        at = self.at[lanes]
        for name, held in self._observations.items():
            held[lanes, at] = observations[name]
        self._actions[lanes, at], self._logprobs[lanes, at], self._state[lanes] = acted
        self._versions[lanes, at] = version

    def received(self, lanes: Places, steps: Steps, seeds: Sequence[int]) -> list[int]:
        """The environments answered; return the lanes whose fragment is full.

        Args:
          seeds: N seeds, each of the episode that began if the one before ended with this step.
        """
        at = self.at[lanes]
        self._rewards[lanes, at] = steps.rewards
        self._terminated[lanes, at], self._truncated[lanes, at] = steps.terminated, steps.truncated
        self._mask[lanes, at] = True if steps.mask is None else steps.mask
        self._returns[lanes] += steps.rewards
        self._lengths[lanes] += 1 if steps.mask is None else steps.mask
        if steps.mask is not None:
            self._state[lanes[~steps.mask]] = 0.0  # of the reset that the backend showed the policy as a step
        if self._captions:
            self._note_captions(lanes, at, steps.captions)
        for index in np.flatnonzero(steps.terminated | steps.truncated).tolist():
            self._end_episode(int(lanes[index]), index, steps, int(seeds[index]))
        self.at[lanes] = at + 1
        full: list[int] = lanes[at + 1 == self._steps].tolist()
        return full

    def fragment(self, lane: int, unit: Unit, last: Mapping[str, NDArray[Any]], now: float) -> Fragment:
        """Return the full fragment of a lane; `last` is what the lane shows now."""
        for name, held in self._observations.items():
            held[lane, self._steps] = last[name]
        stood, began = self._began[lane]
        finals = self._finals[lane]
        mask = self._mask[lane]
        return Fragment(
            slot=unit.slot,
            attempt=unit.attempt,
            observations={name: held[lane].copy() for name, held in self._observations.items()},
            actions=self._actions[lane].copy(),
            logprobs=self._logprobs[lane].copy(),
            versions=run_lengths(self._versions[lane]),
            rewards=self._rewards[lane].copy(),
            terminated=self._terminated[lane].copy(),
            truncated=self._truncated[lane].copy(),
            final_observations={n: np.stack([f[n] for f in finals]) for n in self._observations} if finals else {},
            mask=None if mask.all() else mask.copy(),
            recurrent_state=self._first_state[lane].copy(),
            captions=self._texts[lane],
            caption_counts=self._counts[lane].copy() if self._captions else None,
            episodes=self._episodes[lane],
            environment=stood,
            left={**self._stands(lane), "shown": self._spec.digest(last)},
            last_state=self._state[lane].copy(),
            started_at=began,
            finished_at=now,
        )

    def _stands(self, lane: int) -> dict[str, int]:
        stands = {"seed": self._episode_seeds, "step": self._lengths, "episode": self._ordinals}
        return {name: int(values[lane]) for name, values in stands.items()}

    def _note_captions(self, lanes: Places, at: Places, captions: Sequence[str]) -> None:
        for lane, step, caption in zip(lanes.tolist(), at.tolist(), captions, strict=True):
            self._texts[lane].append(caption)
            if caption:
                seen = self._seen[lane]
                seen[caption] += 1
                self._counts[lane, step] = seen[caption]
            else:
                self._counts[lane, step] = 1

    def _end_episode(self, lane: int, index: int, steps: Steps, seed: int) -> None:
        total = float(self._returns[lane])
        success = steps.successes.get(index)
        if success is None and self._success_return is not None:
            success = total >= self._success_return
        self._episodes[lane].append(Episode(extrinsic_return=total, length=int(self._lengths[lane]), success=success))
        if steps.truncated[index]:
            self._finals[lane].append(steps.finals[index])
        self.fresh(lane, seed)

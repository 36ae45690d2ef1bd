"""The acting side of a decision policy: weights swapped between steps, always the same number of rows.

float32 results change with the number of rows of a matrix product, so a batch is padded to `slots`
rows: what a lane does depends neither on how many others act with it nor on who they are.

Dimensions: N rows that act, A action columns, S numbers of recurrent state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.engines.base import EngineStats
from buffers.environment_spec import EnvironmentSpec, Observations
from configs.schema import RunConfig
from learners.models.decision import build_policy

__all__ = ["PolicyEngine", "build_engine"]

Acted = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

BEFORE_ANYTHING = -1
"""Version of weights that nobody published."""


class PolicyEngine:
    """A network that acts."""

    def __init__(self, network: Any, spec: EnvironmentSpec, *, slots: int, device: str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.version, self.slots, self.stats = BEFORE_ANYTHING, slots, EngineStats()
        self._device = device
        self._tensors = dict(network.state_dict())
        self._padded: Observations = spec.empty(slots)
        self._state = np.zeros((slots, network.state_size), np.float32)
        self._noise = np.zeros((slots, network.distribution.noise), np.float32)
        self._last = 0.0

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights; every action from now on is theirs.

        Raises:
          ValueError: a name or shape does not fit; nothing is changed then.
        """
        if tensors.keys() != self._tensors.keys():
            raise ValueError(f"weights {sorted(tensors.keys() ^ self._tensors.keys())[:3]} are missing or unknown")
        if odd := [name for name, tensor in tensors.items() if tensor.shape != self._tensors[name].shape]:
            raise ValueError(f"weights {odd[:3]} have another shape; all sides must have the same policy section")
        with torch.no_grad():
            for name, held in self._tensors.items():
                held.copy_(tensors[name])
        self.version = version
        self.stats.weight_loads += 1

    def act(
        self, observations: Mapping[str, NDArray[Any]], state: NDArray[np.float32], noise: NDArray[np.float32] | None
    ) -> Acted:
        """Return (actions [N, A], log-probabilities [N] nats, state [N, S]) for any number of rows.

        Args:
          state: [N, S] before the step.
          noise: [N, noise] in [0, 1); None takes the most probable actions.
        """
        began = time.perf_counter()
        parts = [
            self._chunk(
                {n: o[at : at + self.slots] for n, o in observations.items()},
                state[at : at + self.slots],
                None if noise is None else noise[at : at + self.slots],
            )
            for at in range(0, len(state), self.slots)
        ]
        actions, logprobs, after = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        self._count(len(state), began)
        return actions, logprobs, after

    def _chunk(
        self, observations: Mapping[str, NDArray[Any]], state: NDArray[np.float32], noise: NDArray[np.float32] | None
    ) -> Acted:
        rows = len(state)
        padded = {n: self._filled(self._padded[n], o) for n, o in observations.items()}
        distribution = self.network.distribution
        with torch.inference_mode():
            parameters, _, after = self.network.step(
                {n: self._tensor(o) for n, o in padded.items()}, self._tensor(self._filled(self._state, state))
            )
            if noise is None:
                actions = distribution.greedy(parameters)
            else:
                actions = distribution.sample(parameters, self._tensor(self._filled(self._noise, noise)))
            logprobs = distribution.logprobs(parameters, actions)
        return tuple(t[:rows].float().cpu().numpy() for t in (actions, logprobs, after))

    def _filled(self, padded: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        if len(values) == len(padded):
            return np.ascontiguousarray(values)
        padded[: len(values)] = values
        return padded

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _count(self, rows: int, began: float) -> None:
        self.stats.steps += 1
        self.stats.sampled_tokens += rows
        if self._last:
            self.stats.longest_gap_s = max(self.stats.longest_gap_s, began - self._last)
        self._last = time.perf_counter()


def build_engine(config: RunConfig, spec: EnvironmentSpec) -> PolicyEngine:
    """Return the engine of a run, with the network of its `policy` section."""
    network = build_policy(config.policy, spec, config.seed)
    return PolicyEngine(network, spec, slots=config.rollout.slots, device=config.model.device)

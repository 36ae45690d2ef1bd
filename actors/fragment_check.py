"""Were the recorded log-probabilities of actions those of the recorded weights?

While a replay makes one version after the other, every stored step is computed again with the weights that
its stamp names: from the recurrent state at the start of its fragment, carried across swaps as the worker did.

Dimensions: B fragments, T steps, N fragments of one wave (padded like the worker's), S numbers of state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.environment_check import check_environments
from buffers.environment_spec import EnvironmentSpec
from buffers.fragment import Fragments, read_fragments
from configs.schema import RunConfig
from learners.models.decision import build_policy

__all__ = ["FragmentCheck", "build"]

TOLERANCE = 1e-5
"""Nats, float32."""

Places = NDArray[np.int64]


class FragmentCheck:
    """Fed with every version in turn, it compares; `result` says what it found."""

    def __init__(
        self,
        network: Any,
        fragments: Fragments,
        versions: NDArray[np.int64],
        *,
        slots: int,
        threads: int,
        environments: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Prepare to compute fragments again.

        Args:
          versions: [B, T] that sampled each step.
          slots: rows of one call of the network, as the worker's.
          environments: steps the environments again and returns `frames`, `skipped` and `differences`.
        """
        self._network, self._fragments, self._versions = network, fragments, versions
        self._slots, self._threads, self._environments = slots, threads, environments
        self._state = fragments.recurrent_state.copy()
        self._done = np.zeros(len(fragments.ids), np.int64)
        """[B] steps computed so far."""
        self._steps, self._worst = 0, 0.0
        self._differences: list[str] = []

    def at(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Compute again what `weights` sampled; versions must come in ascending order."""
        rows = np.flatnonzero((self._versions == version).any(1))
        if not len(rows):
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            self._load(weights)
            for first in range(0, len(rows), self._slots):
                self._wave(rows[first : first + self._slots], version)
        finally:
            torch.set_num_threads(threads)

    def result(self) -> dict[str, Any]:
        """Return steps compared, the largest difference in nats, and what differs, environments included."""
        left = np.flatnonzero(self._done < self._versions.shape[1])
        unknown = [
            f"{self._fragments.ids[i]}: version {self._versions[i, self._done[i]]} never was, or came too late"
            for i in left
        ]
        found = self._environments()
        differences = [*self._differences, *unknown, *found["differences"]]
        return {"tokens": self._steps, "worst": self._worst, **found, "differences": differences}

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, own in self._network.state_dict().items():
                own.copy_(weights[name])

    def _wave(self, rows: Places, version: int) -> None:
        """Step through what a version sampled of some fragments."""
        mine = self._versions[rows] == version
        starts = mine.argmax(1)
        ends = starts + mine.sum(1)
        fits = starts == self._done[rows]
        rows, starts, ends = rows[fits], starts[fits], ends[fits]
        for offset in range(int((ends - starts).max(initial=0))):
            active = starts + offset < ends
            self._step(rows[active], (starts + offset)[active], version)
        self._done[rows] = ends

    def _step(self, rows: Places, at: Places, version: int) -> None:
        f = self._fragments
        over = f.terminated[rows, at - 1] | f.truncated[rows, at - 1]
        self._state[rows[(at > 0) & over]] = 0.0
        observations = {name: self._padded(array[rows, at]) for name, array in f.observations.items()}
        with torch.inference_mode():
            parameters, _, after = self._network.step(observations, self._padded(self._state[rows]))
            logprobs = self._network.distribution.logprobs(parameters, self._padded(f.actions[rows, at]))
        self._state[rows] = after[: len(rows)].float().numpy()
        self._compare(rows, at, np.abs(logprobs[: len(rows)].numpy() - f.logprobs[rows, at]), version)

    def _padded(self, values: NDArray[Any]) -> Tensor:
        padded = np.zeros((self._slots, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        return torch.from_numpy(padded)

    def _compare(self, rows: Places, at: Places, apart: NDArray[np.float32], version: int) -> None:
        self._steps += len(rows)
        self._worst = max(self._worst, float(apart.max()))
        for i in np.flatnonzero(~(apart <= TOLERANCE)):  # not `>`: a NaN differs too
            place = f"{self._fragments.ids[rows[i]]}, step {at[i]} of version {version}"
            self._differences.append(f"{place}: log-probabilities differ by {apart[i]:.1e}")


def build(config: RunConfig, model_folder: Path, table: pa.Table) -> FragmentCheck:
    """Prepare the check of stored fragments."""
    spec = EnvironmentSpec.from_json((model_folder / "environment.json").read_text())
    fragments = read_fragments(spec, table)
    stamps = dict(zip(table["id"].to_pylist(), _stamps(table), strict=True))
    notes = zip(*(table[name].to_pylist() for name in ("id", "metadata", "started_at")), strict=True)
    stood = {name: (json.loads(note)["environment"], began) for name, note, began in notes}
    return FragmentCheck(
        build_policy(config.policy, spec, config.seed),
        fragments,
        np.stack([stamps[name] for name in fragments.ids]),
        slots=config.rollout.slots,
        threads=config.rollout.threads,
        environments=lambda: check_environments(config, spec, fragments, stood),
    )


def _stamps(table: pa.Table) -> list[NDArray[np.int64]]:
    """Return the version of each step, [T] of every row."""
    runs = zip(table["version_values"].to_pylist(), table["version_counts"].to_pylist(), strict=True)
    return [np.repeat(values, counts) for values, counts in runs]

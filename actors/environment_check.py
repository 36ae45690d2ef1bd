"""Do the environments do again what the record says they did?

    lane: reset with the recorded seed -> every recorded action -> observations, rewards and ends bit for bit

A fragment that begins in the middle of an episode is compared where the one before it is there, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environments import build as build_lanes
from actors.environments.base import Lanes, Steps
from actors.lane_rollouts import SEED_BITS, lane_key
from buffers.environment_spec import EnvironmentSpec
from buffers.fragment import Fragments
from buffers.identity import Slot
from buffers.trajectory import Task, Unit
from configs.schema import RunConfig

__all__ = ["check_environments"]

Stood = tuple[Mapping[str, int], float]
"""Where a lane stood before a fragment ({"seed", "step", "episode"}), and when that was."""
PLACE = np.zeros(1, np.int64)


def check_environments(
    config: RunConfig, spec: EnvironmentSpec, fragments: Fragments, stood: Mapping[str, Stood]
) -> dict[str, Any]:
    """Step recorded fragments again, lane by lane, in the order of their making.

    Returns:
      `frames` compared, fragments `skipped` because nothing leads to their beginning, and `differences`. Another
      backend than gymnasium compares nothing: it steps many lanes at a time, and seeds itself.
    """
    if config.environment.backend["target"] != "gymnasium":
        return {"frames": 0, "skipped": len(fragments.ids), "differences": []}
    by_lane: defaultdict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(fragments.ids)), key=lambda row: stood[fragments.ids[row]][1]):
        by_lane[slot_of(fragments.ids[row]).task].append(row)
    lanes = build_lanes(config.environment, 1, config.seed)
    try:
        walk = _Walk(lanes, spec, fragments, stood, config.seed)
        for rows in by_lane.values():
            walk.lane(rows)
    finally:
        lanes.close()
    return {"frames": walk.frames, "skipped": walk.skipped, "differences": walk.differences}


def slot_of(trajectory: str) -> Slot:
    """Return the slot of a trajectory id; a source may hold colons."""
    source, epoch, task, rest = trajectory.rsplit(":", 3)
    return Slot(source, int(epoch), int(task), int(rest.partition(".")[0]))


class _Walk:
    """Goes through the fragments of one lane after the other, in one place."""

    def __init__(
        self, lanes: Lanes, spec: EnvironmentSpec, fragments: Fragments, stood: Mapping[str, Stood], seed: int
    ) -> None:
        self.frames, self.skipped = 0, 0
        self.differences: list[str] = []
        self._lanes, self._spec, self._fragments, self._stood, self._run_seed = lanes, spec, fragments, stood, seed
        self._at: tuple[int, int] | None = None
        """(seed, step) of the episode that the place is in; None where it cannot go on."""
        ends = np.argwhere(fragments.truncated)
        self._finals = {(int(row), int(step)): k for k, (row, step) in enumerate(ends)}

    def lane(self, rows: list[int]) -> None:
        """Compare the fragments of a lane."""
        self._at = None
        for row in rows:
            where, _ = self._stood[self._fragments.ids[row]]
            if where["step"] == 0:
                self._lanes.reset(0, where["seed"])
                self._at = where["seed"], 0
            if self._at != (where["seed"], where["step"]):
                self.skipped += 1
                self._at = None
                continue
            if what := self._fragment(row):
                self.differences.append(f"{self._fragments.ids[row]}: {what} by the environment itself")
                self._at = None

    def _fragment(self, row: int) -> str:
        """Step through a fragment; return what differs first, or nothing."""
        f, steps = self._fragments, self._fragments.rewards.shape[1]
        slot = slot_of(f.ids[row])
        task = Task(source=slot.source, index=slot.task, prompt="", answer="")
        unit = Unit(slot=slot, attempt=0, task=task, min_version=0)
        first = lane_key(self._run_seed, unit, "episodes") & SEED_BITS
        for step in range(steps):
            if odd := self._shown(row, step):
                return odd
            seed = (first + step) & SEED_BITS
            self._lanes.send(PLACE, f.actions[row, step][None], [seed])
            if odd := self._came(row, step, self._lanes.recv(PLACE)):
                return odd
            self._advance(bool(f.terminated[row, step] or f.truncated[row, step]), seed)
            self.frames += 1
        return self._shown(row, steps)

    def _advance(self, ended: bool, seed: int) -> None:
        assert self._at is not None
        self._at = (seed, 0) if ended else (self._at[0], self._at[1] + 1)

    def _shown(self, row: int, step: int) -> str:
        for name, array in self._lanes.observations.items():
            if not same(self._fragments.observations[name][row, step], array[0]):
                return f"observation {name!r} before step {step} is shown otherwise"
        return ""

    def _came(self, row: int, step: int, steps: Steps) -> str:
        f = self._fragments
        if steps.errors:
            return f"step {step} fails ({steps.errors[0]})"
        for name, array in (("rewards", f.rewards), ("terminated", f.terminated), ("truncated", f.truncated)):
            if not same(array[row, step], getattr(steps, name)[0]):
                return f"{name} of step {step} are given otherwise"
        for name, last in steps.finals.get(0, {}).items():
            if not same(f.final_observations[name][self._finals[row, step]], last):
                return f"the last observation {name!r}, after step {step}, is shown otherwise"
        return ""


def same(recorded: NDArray[Any], found: NDArray[Any]) -> bool:
    """Return whether two values are equal bit for bit."""
    return np.asarray(recorded).tobytes() == np.asarray(found, np.asarray(recorded).dtype).tobytes()

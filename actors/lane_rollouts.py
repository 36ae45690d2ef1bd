"""Running a decision policy in the lanes of one worker: fragments in, fragments out.

    start(unit) -> the unit waits until its lane has finished the one before
    await step() -> half of the lanes: what came of the last actions is recorded, the next are sent off
    finished / failures -> what ended since they were last taken

The order within `step` lets a backend that steps by itself work on one half while the policy looks at
the other. A lane goes on where it stood, be it in another process (`retrace`); one that has stood nowhere, or
whose environment broke, begins a fresh episode. All random numbers are keyed by the slot: who does the work
changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from actors.environments.base import Lanes
from actors.lane_record import LaneRecord
from actors.policy_engine import Acted
from actors.retrace import retrace
from actors.step_watch import StepWatch
from buffers.environment_spec import Observations
from buffers.fragment import Fragment, fragments_to_table
from buffers.messages import Failure
from buffers.trajectory import Unit
from configs.errors import RunError
from configs.schema import RunConfig

__all__ = ["LaneRollouts", "lane_key", "lane_settings"]

SEED_BITS = (1 << 31) - 1
"""Seeds that every environment takes."""

Places = NDArray[np.int64]


def lane_key(seed: int, unit: Unit, purpose: str) -> int:
    """Return the 64-bit key of a unit's random numbers."""
    return int(xxhash.xxh3_64_intdigest(f"{seed}/{unit.slot}/{purpose}".encode()))


class LaneRollouts:
    """Owns the environments of one worker and the fragments under way in them; places are lane numbers."""

    def __init__(
        self,
        engine: Any,
        lanes: Lanes,
        *,
        steps: int,
        halves: int,
        seed: int,
        count_scope: str = "episode",
        success_return: float | None = None,
        max_delay_s: float = 0.0,
        step_deadline_s: float = 60.0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin nothing yet.

        Args:
          engine: a `PolicyEngine`, or what a subclass knows how to ask.
        """
        self.engine, self.seed = engine, seed
        self.finished: list[Fragment] = []
        self.failures: list[Failure] = []
        self._lanes, self._steps, self._halves, self._wall_clock = lanes, steps, halves, wall_clock
        self.watch = StepWatch(lanes, step_deadline_s)
        self._queues: dict[int, deque[Unit]] = {}
        self._units: dict[int, Unit] = {}
        """lane -> the unit under way"""
        self._waiting = 0
        self._alive = np.zeros(lanes.size, np.bool_)
        """Its environment can go on."""
        self._breaks = [0] * lanes.size
        """Failures of a lane since its last fragment."""
        self._record = LaneRecord(
            lanes.spec, lanes.size, steps, engine.network,
            captions=lanes.has_captions, count_scope=count_scope, success_return=success_return,
        )  # fmt: skip
        self._half = 0
        self._max_delay_s = max_delay_s
        self._ready_at: dict[int, float] = {}
        """lane -> clock time before which its fragment does not begin"""
        self._sent: dict[int, Places] = {}
        """half -> lanes whose actions are with the environments"""
        self._seeds = np.zeros(lanes.size, np.int64)

    @property
    def in_flight(self) -> int:
        return len(self._units) + self._waiting

    @property
    def wanted(self) -> int:
        """Units to hold: of each lane the next one as well, so that none stands still during an exchange."""
        return 2 * self._lanes.size

    def start(self, unit: Unit) -> None:
        """Begin a fragment, or let it wait for its lane.

        Raises:
          RunError: there is no such lane.
        """
        lane = unit.slot.task
        if not 0 <= lane < self._lanes.size:
            raise RunError(f"slot {unit.slot} asks for lane {lane}; there are {self._lanes.size} (environment.lanes)")
        if lane in self._units:
            self._queues.setdefault(lane, deque()).append(unit)
            self._waiting += 1
        else:
            self._begin(lane, unit)

    async def step(self) -> None:
        """Advance one half of the lanes by one step."""
        began = time.perf_counter()
        half = self._next_half()
        sent = self._sent.pop(half, None)
        if sent is not None:
            self._receive(sent)
        if (lanes := self._due(half)) is not None:
            self._sent[half] = lanes
            observations, state, noise = self._inputs(lanes)
            self._act(lanes, observations, self.engine.act(observations, state, noise), self.engine.version)
        self.engine.stats.busy_s += time.perf_counter() - began
        await asyncio.sleep(0)  # exchanges are answered between two steps

    def take(self) -> tuple[list[Fragment], list[Failure]]:
        """Return and forget what ended."""
        ended = self.finished, self.failures
        self.finished, self.failures = [], []
        return ended

    def to_table(self, fragments: Sequence[Fragment]) -> pa.Table:
        """Return finished fragments as rows."""
        return fragments_to_table(self._lanes.spec, fragments)

    async def close(self) -> None:
        """Release the environments."""
        self._lanes.close()

    def _begin(self, lane: int, unit: Unit) -> None:
        self._units[lane] = unit
        try:
            self._take_place(lane, unit)
        except RunError as error:
            self._fail(lane, str(error))
            return
        if self._max_delay_s:
            self._ready_at[lane] = time.perf_counter() + random.random() * self._max_delay_s
        self._seeds[lane] = lane_key(self.seed, unit, "episodes") & SEED_BITS
        noise = np.random.Generator(np.random.Philox(key=lane_key(self.seed, unit, "actions")))
        self._record.begin(lane, noise, self._wall_clock())

    def _take_place(self, lane: int, unit: Unit) -> None:
        """Bring a lane to where a unit begins.

        Raises:
          RunError: its environment cannot begin, or does not repeat itself.
        """
        if unit.trail is not None and self._lanes.repeats:
            retrace(self._lanes, self._record, self.watch, lane, unit.trail)
        elif not self._alive[lane]:
            # Not keyed by the attempt: a worker that was lost before it brought anything changes no seed.
            seed = lane_key(self.seed, unit, f"begin {self._breaks[lane]}") & SEED_BITS
            with self.watch:
                self._lanes.reset(lane, seed)
            self._record.fresh(lane, seed)
        self._alive[lane] = True

    def _next_half(self) -> int:
        half, self._half = self._half, (self._half + 1) % self._halves
        return half

    def _due(self, half: int) -> Places | None:
        """Return the lanes of a half that act now; None: none does."""
        active = sorted(lane for lane in self._units if lane % self._halves == half and self._ready(lane))
        return np.array(active, np.int64) if active else None

    def _inputs(self, lanes: Places) -> tuple[Observations, NDArray[np.float32], NDArray[np.float32]]:
        """Return what the policy looks at: observations, recurrent state and noise."""
        shown = self._lanes.observations
        whole = len(lanes) == self._lanes.size
        observations = shown if whole else {name: array[lanes] for name, array in shown.items()}
        return observations, *self._record.inputs(lanes)

    def _act(self, lanes: Places, observations: Observations, acted: Acted, version: int) -> None:
        """Note what the policy did in these lanes, and let them step."""
        self._record.acted(lanes, observations, acted, version)
        with self.watch:
            self._lanes.send(lanes, acted[0], self._next_seeds(lanes))

    def _receive(self, lanes: Places) -> None:
        """Record what came of it; hand over the fragments that are full."""
        with self.watch:
            steps = self._lanes.recv(lanes)
        full = self._record.received(lanes, steps, self._next_seeds(lanes))
        broken = {int(lanes[index]): why for index, why in steps.errors.items()}
        for lane in full:
            if lane not in broken:
                self._finish(lane)
        for lane, why in broken.items():
            self._fail(lane, why)

    def _ready(self, lane: int) -> bool:
        return not self._max_delay_s or time.perf_counter() >= self._ready_at[lane]

    def _next_seeds(self, lanes: Places) -> list[int]:
        """Return the seed of the episode that begins should the present one end with this step."""
        return ((self._seeds[lanes] + self._record.at[lanes]) & SEED_BITS).tolist()

    def _finish(self, lane: int) -> None:
        unit = self._units.pop(lane)
        self._breaks[lane] = 0
        last = {name: array[lane] for name, array in self._lanes.observations.items()}
        self.finished.append(self._record.fragment(lane, unit, last, self._wall_clock()))
        self._next(lane)

    def _fail(self, lane: int, why: str) -> None:
        """Give the unit of a lane up; only its fragment is lost, and the lane begins anew."""
        unit = self._units.pop(lane)
        self._alive[lane] = False
        self._breaks[lane] += 1
        reason = f"lane {lane}: {why}"
        self.failures.append(Failure(slot=unit.slot, attempt=unit.attempt, reason=reason, retry=True))
        self._next(lane)

    def _next(self, lane: int) -> None:
        if queue := self._queues.get(lane):
            self._waiting -= 1
            self._begin(lane, queue.popleft())


def lane_settings(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of `LaneRollouts` that a configuration gives."""
    section = config.environment
    return {
        "steps": section.fragment_length, "halves": section.halves, "seed": config.seed,
        "count_scope": config.exploration.count_scope, "success_return": section.success_return,
        "max_delay_s": config.rollout.max_delay_s, "step_deadline_s": section.step_deadline_s,
    }  # fmt: skip

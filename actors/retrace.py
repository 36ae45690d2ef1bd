"""Bringing a lane to where it stood in another process: its episode is stepped through again, without the policy."""

from __future__ import annotations

import numpy as np

from actors.environments.base import Lanes
from actors.lane_record import LaneRecord
from actors.step_watch import StepWatch
from buffers.trail import Trail
from configs.errors import RunError

__all__ = ["retrace"]


def retrace(lanes: Lanes, record: LaneRecord, watch: StepWatch, lane: int, trail: Trail) -> None:
    """Have a lane, and what is recorded of it, stand where `trail` ends.

    Captions are counted on the way.

    Raises:
      RunError: the environment breaks, or does not do again what it did; the lane needs a fresh episode.
    """
    place = np.array([lane])
    with watch:
        lanes.reset(lane, trail.seed)
    record.fresh(lane, trail.seed)
    for action in trail.actions:
        with watch:
            lanes.send(place, action[None], [0])
            steps = lanes.recv(place)
        if steps.errors:
            raise RunError(steps.errors[0])
        if steps.terminated[0] or steps.truncated[0]:
            raise _other(lanes, lane, trail, "ends before")
        record.retraced(lane, steps)
    if lanes.spec.digest({name: array[lane] for name, array in lanes.observations.items()}) != trail.shown:
        raise _other(lanes, lane, trail, "shows something else after")
    record.arrived(lane, trail)


def _other(lanes: Lanes, lane: int, trail: Trail, what: str) -> RunError:
    return RunError(
        f"{lanes.spec.name} at place {lane} {what} the {len(trail.actions)} recorded steps of seed {trail.seed}: it is "
        "not a function of its seed and actions; the lane begins a fresh episode"
    )

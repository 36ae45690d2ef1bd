"""When a pool grows or shrinks by itself: a pure function from what was seen to a decision.

The pool grows while its work waits longer than the target, and shrinks while next to nothing waits and fewer
members would still have time to spare. Two things keep it from swinging: the gap between the two limits, and a
memory: a size that was left because work waited is not gone back to before the demand has fallen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.scaling import ScalingConfig

__all__ = ["Decision", "Load", "ScalingState", "decide"]

FALLEN = 0.8
"""A demand below this share of the one that was too much for a size is another demand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a pool did in the last window."""

    queue_s: float
    """Median wait of its work before a member began it, seconds."""
    utilisation: float
    """Share of the time that its members were busy, in [0, 1]."""

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> Load | None:
        """Return the load in a pool's figures, see `buffers.load.pool_figures`; None while it is not known."""
        if "queue_p50_s" not in figures or "busy" not in figures:
            return None
        return cls(queue_s=figures["queue_p50_s"], utilisation=figures["busy"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingState:
    """What earlier decisions leave behind."""

    changed_at: float = -math.inf
    """Seconds, of any clock; changes by hand count."""
    too_few: int = 0
    """The largest size that was too small for `demand`; 0: none is known."""
    demand: float = 0.0
    """Busy members when it was too small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A pool changes its size."""

    time: float
    before: int
    after: int
    why: str


def decide(
    settings: ScalingConfig, state: ScalingState, load: Load, count: int, now: float
) -> tuple[ScalingState, Decision | None]:
    """Return what is remembered from now on, and the change to be made, if any.

    Args:
      count: members now; outside the bounds it is brought back to them at once.
      now: seconds, of the clock of `state`.
    """
    if settings.max is None:
        return state, None
    bounded = min(max(count, settings.min), settings.max)
    if bounded != count:
        return _change(state, count, bounded, now, f"its bounds are {settings.min} to {settings.max}")
    demand = load.utilisation * count
    quiet_s = now - state.changed_at
    if load.queue_s > settings.target_queue_s:
        after = min(settings.max, max(count + 1, math.floor(count * settings.up_factor)))
        if after == count or quiet_s < settings.up_cooldown_s:
            return state, None
        seen = replace(state, too_few=max(count, _known(state, demand)), demand=demand)
        why = f"work waited {load.queue_s:.2f} s, target {settings.target_queue_s:g} s"
        return _change(seen, count, after, now, why)
    fewest = max(settings.min, _known(state, demand) + 1)
    after = max(fewest, min(count - 1, math.ceil(count * settings.down_factor)))
    if after >= count or quiet_s < settings.down_cooldown_s:
        return state, None
    is_quiet = load.queue_s < settings.quiet_share * settings.target_queue_s
    if is_quiet and demand <= settings.busy_share * after:
        why = f"work waited {load.queue_s:.2f} s, {load.utilisation:.0%} busy"
        return _change(state, count, after, now, why)
    return state, None


def _known(state: ScalingState, demand: float) -> int:
    """Return the size that is known to be too small for such a demand."""
    return state.too_few if demand >= FALLEN * state.demand else 0


def _change(state: ScalingState, before: int, after: int, now: float, why: str) -> tuple[ScalingState, Decision | None]:
    return replace(state, changed_at=now), Decision(time=now, before=before, after=after, why=why)

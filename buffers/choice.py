"""Which groups become the next batch: the sampler's choice, as far as the staleness bound lets it."""

from __future__ import annotations

from collections.abc import Iterable

from buffers.groups import Group
from buffers.samplers import BufferView, Sampler
from buffers.staleness import can_wait

__all__ = ["choose"]


def choose(view: BufferView, sampler: Sampler, *, max_staleness: int | None, fresh_later: int) -> list[Group] | None:
    """Return the groups of the next batch in the order of identity, or None while it must wait.

    Args:
      max_staleness: versions that a sample may be old when it is trained; None leaves the choice to the sampler.
      fresh_later: groups never trained before that every later update takes, at least.
    """
    count = view.groups_per_update
    ranked = sampler.order(view)
    if ranked is None or len(ranked) < count:
        return None
    chosen = ranked[:count]
    if max_staleness is not None and not _can_leave(chosen, view, max_staleness, fresh_later):
        # The sampler's choice would make a group too old: take the most urgent fresh ones instead.
        repeated = [g for g in chosen if g.times_trained]
        urgent = sorted(view.ready, key=lambda g: (g.floor or 0, g.completed))
        chosen = [*urgent[: count - len(repeated)], *repeated]
        if not _can_leave(chosen, view, max_staleness, fresh_later):
            return None
    return sorted(chosen, key=lambda g: g.ordinal)


def _can_leave(chosen: Iterable[Group], view: BufferView, max_staleness: int, fresh_later: int) -> bool:
    """Return whether every live group that is not chosen can still be trained within the bound."""
    taken = {group.key for group in chosen}
    floors = [g.floor for g in (*view.ready, *view.unfinished) if g.key not in taken]
    return can_wait(
        (floor for floor in floors if floor is not None),
        version=view.version,
        max_staleness=max_staleness,
        groups_per_update=fresh_later,
    )

"""The staleness bound at consumption.

The age of a sample is the consuming version minus the version of its oldest token. Under `wait`, an
update does not start while a group left behind could then exceed the bound. With n groups per
update, S the bound and v the consuming version, a group whose oldest token has version u must be
trained at some version w <= u + S. By Hall's theorem the groups left behind can all meet their
deadlines exactly when, for every w > v, at most (w - v) * n of them have a deadline <= w.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["age", "can_wait"]


def age(version: int, oldest_version: int) -> int:
    """Return the age in versions of a sample consumed at `version`."""
    return version - oldest_version


def can_wait(floors: Iterable[int], *, version: int, max_staleness: int, groups_per_update: int) -> bool:
    """Return whether every group left behind can still be trained within its bound.

    Args:
      floors: oldest version of each started group that is not part of the batch consumed at `version`.
    """
    deadlines = sorted(floor + max_staleness for floor in floors)
    return all(rank <= (deadline - version) * groups_per_update for rank, deadline in enumerate(deadlines, start=1))

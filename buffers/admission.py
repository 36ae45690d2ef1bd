"""How much work may exist at a time.

With batches of B samples, version v of the weights and staleness bound S, work is admitted while

    accepted + running <= (S + v + 1) * B

where `accepted` counts every sample that was or will be trained on, so it falls on every drop, failure
of a whole group, or filter. Then nothing that starts now can be older than S when its turn comes.
We count groups, because the learner consumes whole groups: a member that failed leaves its live group
smaller but does not make room for another one.
"""

from __future__ import annotations

__all__ = ["group_capacity", "may_admit"]


def group_capacity(*, max_staleness: int, trained_groups: int, groups_per_update: int) -> int:
    """Return the largest number of live groups (trained, complete and open together).

    Without replay `trained_groups == version * groups_per_update` and this is the formula above.
    With replay fewer fresh groups are trained per version; counting them keeps the bound.
    """
    return (max_staleness + 1) * groups_per_update + trained_groups


def may_admit(
    *,
    live_groups: int,
    trained_groups: int,
    max_staleness: int,
    groups_per_update: int,
    held_bytes: int,
    max_bytes: int,
) -> bool:
    """Return whether one more group may start.

    Args:
      live_groups: groups ever admitted, less those dropped, filtered or wholly failed.
      held_bytes: payload bytes in the buffer. Above `max_bytes` only the batch that the learner is
        waiting for is completed, since refusing that too would stop the run for good.
    """
    if live_groups >= group_capacity(
        max_staleness=max_staleness, trained_groups=trained_groups, groups_per_update=groups_per_update
    ):
        return False
    return held_bytes < max_bytes or live_groups - trained_groups < groups_per_update

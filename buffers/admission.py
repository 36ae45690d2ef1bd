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


def group_capacity(*, max_staleness: int, trained_groups: int, fresh_next: int, fresh_later: int) -> int:
    """Return the largest number of live groups (trained, complete and open together).

    Args:
      trained_groups: groups trained so far, each counted once.
      fresh_next: groups that the next update takes and that were never trained before.
      fresh_later: the same for each update after it, at least.

    Without replay both are the batch, `trained_groups` is version times the batch, and this is the
    formula above. With replay an update takes fewer fresh groups, and so fewer may wait for it.
    """
    return trained_groups + fresh_next + max_staleness * fresh_later


def may_admit(
    *,
    live_groups: int,
    trained_groups: int,
    max_staleness: int,
    fresh_next: int,
    fresh_later: int,
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
        max_staleness=max_staleness, trained_groups=trained_groups, fresh_next=fresh_next, fresh_later=fresh_later
    ):
        return False
    return held_bytes < max_bytes or live_groups - trained_groups < fresh_next

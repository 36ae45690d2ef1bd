"""Holds samples back until their whole group is there, for rewards that compare the samples of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from buffers.scores import Sample

__all__ = ["GroupBarrier"]


class GroupBarrier:
    """Releases samples at once, or group by group.

    It waits for: the rollouts of the other members (owner: their workers; `buffer.group_deadline_s` ends it).
    """

    def __init__(self, *, whole_groups: bool, incomplete: Callable[[], set[str]]) -> None:
        """Make an empty barrier.

        Args:
          whole_groups: False lets everything through.
          incomplete: returns the groups that a worker still has to bring samples of.
        """
        self._whole_groups, self._incomplete = whole_groups, incomplete
        self._held: dict[str, list[Sample]] = {}

    def add(self, samples: Sequence[Sample]) -> list[Sample]:
        """Take samples; return those that may be scored now."""
        if not self._whole_groups:
            return list(samples)
        for sample in samples:
            self._held.setdefault(sample.group, []).append(sample)
        return self.release()

    def release(self) -> list[Sample]:
        """Return the samples of groups that became whole, because a missing member came or was given up."""
        if not self._held:
            return []
        incomplete = self._incomplete()
        whole = [group for group in self._held if group not in incomplete]
        return [sample for group in whole for sample in self._held.pop(group)]

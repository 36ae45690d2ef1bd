"""Samplers order the complete groups; the front of the order becomes the next batch.

To add one: a frozen dataclass that subclasses `Sampler`, and a line in `SAMPLERS`.
"""

from __future__ import annotations

import math
import random
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from buffers.groups import Group

__all__ = ["SAMPLERS", "BufferView", "Fifo", "InOrder", "Prioritised", "Replay", "Sampler"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BufferView:
    """What a sampler sees."""

    version: int
    groups_per_update: int
    ready: Sequence[Group]
    """Complete groups never trained on, in order of completion."""
    unfinished: Sequence[Group]
    """Live groups with members missing."""
    trained: Sequence[Group]
    """Groups kept for replay, oldest first."""


class Sampler(ABC):
    """Chooses what to train on next; by default every group is trained once."""

    @abstractmethod
    def order(self, view: BufferView) -> list[Group] | None:
        """Return candidates, best first; None waits for groups that are not complete yet."""

    def retains(self, group: Group, version: int) -> bool:
        """Return whether a trained group may be drawn again at `version`."""
        return False

    def most(self, groups_per_update: int) -> int:
        """Return the largest number of repeated groups in a batch."""
        return 0

    @property
    def memory(self) -> int:
        """Versions after which a trained group is never drawn again."""
        return 0

    def again(self, trained: Sequence[Group], version: int, groups_per_update: int) -> list[Group]:
        """Return the trained groups that the next batch repeats, oldest first."""
        return [g for g in trained if self.retains(g, version)][: self.most(groups_per_update)]


@dataclass(frozen=True)
class Fifo(Sampler):
    """First completed, first trained."""

    def order(self, view: BufferView) -> list[Group] | None:
        return list(view.ready)


@dataclass(frozen=True)
class InOrder(Sampler):
    """Strictly in the order of the task stream; waits for stragglers."""

    def order(self, view: BufferView) -> list[Group] | None:
        live = sorted([*view.ready, *view.unfinished], key=lambda g: g.ordinal)[: view.groups_per_update]
        return live if all(group.complete for group in live) else None


@dataclass(frozen=True, kw_only=True)
class Prioritised(Sampler):
    """Draws groups without replacement, with probability proportional to (std of rewards + floor) ** alpha.

    Source: Gumbel top-k form of prioritised replay, arXiv:1511.05952 eq. 1; the group's reward
    spread stands for the TD error, since it bounds the group's advantages.
    """

    alpha: float = 0.6
    floor: float = 0.05
    seed: int = 0

    def order(self, view: BufferView) -> list[Group] | None:
        return sorted(view.ready, key=lambda g: -self._perturbed(g, view.version))

    def _perturbed(self, group: Group, version: int) -> float:
        rewards = [row.reward for row in group.valid_rows if row.reward is not None]
        spread = statistics.pstdev(rewards) if len(rewards) > 1 else 0.0
        # Keyed by identity, so that the draw does not depend on arrival order.
        noise = random.Random(f"{self.seed}/{version}/{group.key}").random()
        gumbel = -math.log(-math.log(min(max(noise, 1e-12), 1 - 1e-12)))
        return self.alpha * math.log(spread + self.floor) + gumbel


@dataclass(frozen=True, kw_only=True)
class Replay(Sampler):
    """Trains each group up to `times` times: a `share` of every batch is drawn from trained groups.

    Replayed groups follow their own bound `max_age` and do not count for admission.
    """

    times: int = 2
    share: float = 0.5
    max_age: int = 8

    def __post_init__(self) -> None:
        if self.times < 2:
            raise ValueError(f"times is {self.times}; it must be >= 2; use the fifo sampler to train once")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it must lie between 0 and 1; 0.5 halves the fresh samples")

    def retains(self, group: Group, version: int) -> bool:
        oldest = min((row.oldest_version for row in group.valid_rows), default=-1)
        return group.times_trained < self.times and version - oldest <= self.max_age

    @property
    def memory(self) -> int:
        return self.max_age

    def most(self, groups_per_update: int) -> int:
        return min(round(self.share * groups_per_update), groups_per_update - 1)  # one is always fresh

    def order(self, view: BufferView) -> list[Group] | None:
        replayed = self.again(view.trained, view.version, view.groups_per_update)
        fresh_wanted = view.groups_per_update - len(replayed)
        if len(view.ready) < fresh_wanted:
            return None
        fresh = list(view.ready)
        return [*fresh[:fresh_wanted], *replayed, *fresh[fresh_wanted:]]


SAMPLERS = {
    "fifo": "buffers.samplers:Fifo",
    "in_order": "buffers.samplers:InOrder",
    "prioritised": "buffers.samplers:Prioritised",
    "replay": "buffers.samplers:Replay",
}

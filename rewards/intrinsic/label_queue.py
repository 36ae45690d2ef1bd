"""What waits for a label: bounded, the newest first, and nothing twice.

offer -> waiting --take--> in flight --settle--> labelled | waiting again | given up
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from buffers.load import LoadMeter
from rewards.intrinsic.labels import Item

__all__ = ["Batch", "LabelQueue"]

GIVEN_UP = 100_000
"""Items whose abstentions are remembered; beyond it the oldest are forgotten, and may be asked about again."""


class Batch(NamedTuple):
    """Items that one annotator works on."""

    id: int
    items: list[Item]


class LabelQueue:
    """Items in the order in which they were last met; each at one place: waiting, in flight or nowhere."""

    def __init__(
        self, size: int, *, labelled: Collection[Item], max_abstentions: int, abstentions: Mapping[Item, int]
    ) -> None:
        """Begin empty.

        Args:
          size: items that may wait; of more, the ones longest unseen are let go.
          labelled: items that have their label; looked at, never copied.
          abstentions: of earlier processes.
        """
        self.let_go = 0
        """Items that left because the queue was full."""
        self.load = LoadMeter(clock=time.monotonic)
        """Of annotators."""
        self._size, self._labelled, self._max_abstentions = size, labelled, max_abstentions
        self._abstentions = dict(abstentions)
        self._waiting: dict[Item, None] = {}  # newest last
        self._batches: dict[int, list[Item]] = {}
        self._flying: set[Item] = set()
        self._ids = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def offer(self, items: Iterable[Item]) -> None:
        """Let items wait, the last one as the newest; one that waits already becomes new again."""
        for item in items:
            if self._is_open(item):
                self._waiting.pop(item, None)
                self._waiting[item] = None
                self.load.came(item)
        self._trim()

    def take(self, count: int) -> Batch:
        """Move the newest items, at most `count`, into flight; `settle` must follow."""
        items = [self._waiting.popitem()[0] for _ in range(min(count, len(self._waiting)))]
        batch = Batch(next(self._ids), items)
        for item in items:
            self.load.begun(item)
        self._batches[batch.id] = items
        self._flying.update(items)
        return batch

    def settle(self, batch: Batch, *, abstained: Iterable[Item] = ()) -> None:
        """End the flight of a batch: what has no label by now waits again, behind all that never flew.

        Behind, so that an item at which annotators break cannot keep the others waiting.

        Args:
          abstained: items that were answered, but without a label.
        """
        items = self._batches.pop(batch.id, [])
        self._flying.difference_update(items)
        for item in abstained:
            self._abstentions[item] = self._abstentions.pop(item, 0) + 1
        while len(self._abstentions) > GIVEN_UP:
            del self._abstentions[next(iter(self._abstentions))]
        again = [item for item in reversed(items) if item not in self._waiting and self._is_open(item)]
        for item in again:
            self.load.came(item)
        self._waiting = dict.fromkeys([*again, *self._waiting])
        self._trim()

    def _is_open(self, item: Item) -> bool:
        return (
            item not in self._labelled
            and item not in self._flying
            and self._abstentions.get(item, 0) < self._max_abstentions
        )

    def _trim(self) -> None:
        while len(self._waiting) > self._size:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self.load.gone(oldest)
            self.let_go += 1

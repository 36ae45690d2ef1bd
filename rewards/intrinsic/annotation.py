"""The loops that get labels: per annotator, the newest items out, answers in.

    queue --take--> annotator.annotate(items) --labels--> store
      ^                        | died, hung, garbage
      '------- settle ---------'  after a pause that doubles with each failure

X waits for Y: a loop waits for its annotator (deadline of the settings and a grace), and without items
for the next ones.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from buffers.scores import ScoreStatus
from buffers.transport import Handle
from configs.decision import AnnotationConfig
from rewards.intrinsic.label_queue import Batch, LabelQueue
from rewards.intrinsic.label_store import LabelStore
from rewards.intrinsic.labels import Item, Label
from rewards.online.loops import Signal

__all__ = ["Annotation"]

GRACE_S = 5.0
"""For an annotator that keeps its own deadline to say so."""
IDLE_S = 5.0
BACKOFF_S = 0.2
"""After an annotator's first failure; doubles with each further one in a row."""
LONGEST_BACKOFF_S = 30.0


class Annotation:
    """Keeps annotators busy, and never raises for what they do."""

    def __init__(
        self,
        queue: LabelQueue,
        store: LabelStore,
        settings: AnnotationConfig,
        *,
        refill: Callable[[int], None],
        version: Callable[[], int],
        labelled: Callable[[Sequence[Item]], None],
        wall_clock: Callable[[], float] = time.time,
        is_leaving: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Wire the loops.

        Args:
          refill: offers the queue about so many items more, where items are made on demand.
          version: of the reward model, now.
          labelled: told the items that just got their label.
          is_leaving: whether an annotator, by name, is to be given nothing more.
        """
        self.counters: Counter[str] = Counter()
        self.last_failure = ""
        """Of an annotator."""
        self.offered = Signal()
        """To be sent after items were offered to the queue."""
        self._queue, self._store, self._settings = queue, store, settings
        self._refill, self._version, self._labelled, self._wall_clock = refill, version, labelled, wall_clock
        self._is_leaving = is_leaving

    async def work(self, annotator: Handle) -> None:
        """Have one annotator label items until it leaves."""
        failures = 0
        while not self._is_leaving(annotator.name):
            batch = self._take()
            if not batch.items:
                self._queue.settle(batch)
                await self.offered.wait(IDLE_S)
                continue
            failures = 0 if await self._ask(annotator, batch) else failures + 1
            if failures:
                await asyncio.sleep(min(BACKOFF_S * 2 ** (failures - 1), LONGEST_BACKOFF_S))

    def _take(self) -> Batch:
        """Take the newest items, no more than the budget has labels left."""
        wanted, budget = self._settings.batch_size, self._settings.budget
        if budget is not None:
            wanted = max(0, min(wanted, budget - len(self._store) - self._queue.in_flight))
        if len(self._queue) < wanted:
            self._refill(wanted - len(self._queue))
        return self._queue.take(wanted)

    async def _ask(self, annotator: Handle, batch: Batch) -> bool:
        """Return whether the annotator did its work; whatever happens, the batch is settled."""
        abstained: list[Item] = []
        try:
            answer = await annotator.call(
                "annotate",
                batch.items,
                deadline_s=self._settings.deadline_s + GRACE_S,
                awaiting=f"labels of {len(batch.items)} items",
            )
            labels = _checked(answer, batch.items)
            abstained = [label.item for label in labels if label.status is ScoreStatus.ABSTAINED]
            self._record(labels, annotator.name)
        except Exception as error:  # annotators are anyone's code: whatever it was, it must not end the loop
            self._failed(f"{annotator.name}: {type(error).__name__}: {error}")
            return False
        finally:  # also when the loop is cancelled, since its annotator left
            self._queue.settle(batch, abstained=abstained)
        if fault := _fault(labels):
            self._failed(f"{annotator.name}: {fault}")
        return not fault

    def _record(self, labels: Sequence[Label], annotator: str) -> None:
        new = self._store.add(labels, annotator=annotator, version=self._version(), time=self._wall_clock())
        silent = [label for label in labels if label.status is ScoreStatus.ABSTAINED]
        self.counters["abstained"] += len(silent)
        self.counters["unreadable"] += sum(bool(label.reply) for label in silent)
        self.counters["duplicates"] += sum(label.value is not None for label in labels) - len(new)
        if new:
            self._labelled(new)

    def _failed(self, what: str) -> None:
        self.counters["failures"] += 1
        self.last_failure = what


def _checked(answer: Any, items: Sequence[Item]) -> list[Label]:
    """Return the answer if it is one label per item, in order.

    Raises:
      ValueError: it is anything else; nothing of it is used.
    """
    is_labels = isinstance(answer, list | tuple) and all(isinstance(label, Label) for label in answer)
    if not is_labels or [label.item for label in answer] != list(items):
        raise ValueError(f"annotate() must return one Label per item, in order; got {answer!r:.200}")
    return list(answer)


def _fault(labels: Sequence[Label]) -> str:
    """Return why no item was even looked at; empty where any was: what is asked at once again would fail again."""
    faults = [label for label in labels if label.status in (ScoreStatus.ERROR, ScoreStatus.TIMEOUT)]
    return f"{faults[0].status}: {faults[0].detail}" if len(faults) == len(labels) else ""

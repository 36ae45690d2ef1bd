"""All labels of a run: in memory by item, and every answer in an append-only log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import pyarrow as pa
from xxhash import xxh3_64_intdigest

from buffers.scores import ScoreStatus
from buffers.segments import SegmentWriter, read_stream
from buffers.tables import LABELS
from rewards.intrinsic.base import Example
from rewards.intrinsic.labels import Item, Label

__all__ = ["LabelStore"]

STREAM = "labels"


class LabelStore(Set[Item]):
    """The set of items that have a label; an item keeps its first one."""

    def __init__(self, folder: Path, *, epoch: int, held_out_fraction: float) -> None:
        """Read what earlier processes stored.

        Args:
          epoch: that this process began in `folder`; writers of older ones are refused from then on.

        Raises:
          Corruption: a file of the log is damaged.
          StaleEpoch: a newer process began.
        """
        self.examples: list[Example] = []
        """To learn from, oldest first."""
        self.held_out: list[Example] = []
        """To measure accuracy with."""
        self.captions: set[str] = set()
        """Those in any item that has a label."""
        self.abstentions: Counter[Item] = Counter()
        """As the log tells them; not counted on."""
        self._items: set[Item] = set()
        self._folder, self._held_out_fraction = folder, held_out_fraction
        self._writer = SegmentWriter(folder, STREAM, LABELS, run_epoch=epoch)
        self._restore(read_stream(folder, STREAM, LABELS))

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, labels: Sequence[Label], *, annotator: str, version: int, time: float) -> list[Item]:
        """Log all answers and keep the labels among them; return the items that are new.

        The log follows within moments; `flush` waits for it.

        Args:
          version: of the reward model now.
          time: seconds since the Unix epoch.
        """
        now = {"annotator": annotator, "version": version, "time": time}
        columns = ("item", "value", "status", "prompt", "reply", "detail", "latency_s")
        rows = [{**{name: getattr(label, name) for name in columns}, **now} for label in labels]
        self._writer.append(pa.Table.from_pylist(rows, schema=LABELS))
        return [label.item for label in labels if label.value is not None and self._keep(label.item, label.value)]

    def flush(self) -> None:
        """Return once every answer so far is on disk.

        Raises:
          DeadlineExceeded: it is not, after a minute.
          RunError: the disk refused, or a newer process began.
        """
        self._writer.flush()

    def raise_failure(self) -> None:
        """Raise what keeps answers from being stored, if anything does."""
        self._writer.raise_failure()

    def refuse_if_stale(self) -> None:
        """Raise StaleEpoch when a newer process began."""
        self._writer.refuse_if_stale()

    def close(self) -> None:
        self._writer.close()

    def _keep(self, item: Item, value: float) -> bool:
        if item in self._items:
            return False
        self._items.add(item)
        self.captions.update(item)
        (self.held_out if self._is_held_out(item) else self.examples).append((item, value))
        return True

    def _is_held_out(self, item: Item) -> bool:
        # A unit separator keeps ("a", "b") and ("ab",) apart; the seed keeps this draw apart from others' by hash.
        return xxh3_64_intdigest("\x1f".join(item).encode(), seed=1) < self._held_out_fraction * 2**64

    def _restore(self, table: pa.Table) -> None:
        columns = (table[name].to_pylist() for name in ("item", "value", "status"))
        for item, value, status in zip(*columns, strict=True):
            if value is not None:
                self._keep(tuple(item), value)
            elif status == ScoreStatus.ABSTAINED:
                self.abstentions[tuple(item)] += 1

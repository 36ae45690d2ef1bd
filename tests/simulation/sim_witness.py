"""An independent account of one run: what was published, loaded and trained; it raises at the first wrong step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa

__all__ = ["Lineage", "Violation", "Witness", "slot_of"]

Tokens = Callable[[dict[str, Any], dict[int, int]], list[int]]
"""(trajectory row, version -> weights) -> the tokens that these weights sample"""


class Violation(AssertionError):
    """A promise of the system was broken."""


class Witness:
    """Knows only what passes between engine, publisher and learner; never asks the ledger."""

    def __init__(self, *, max_staleness: int, replay_max_age: int | None, judged: str, tokens: Tokens) -> None:
        self.max_staleness, self.replay_max_age, self.tokens = max_staleness, replay_max_age, tokens
        self.judged = judged
        """arrival | batch: a batch that is judged when it is read may hold samples without a reward."""
        self.lineage = Lineage(self, {})
        self.ever: set[tuple[int, int]] = set()
        """(version, weights) that were ever published."""
        self.killed: Counter[str] = Counter()
        """Poison slot -> workers that it killed."""
        self.problem: Violation | None = None

    def new_learner(self) -> Lineage:
        """A learner starts: it may go on where the one before it was, or resume from a checkpoint."""
        self.lineage = Lineage(self, dict(self.lineage.trained))
        return self.lineage

    def loaded(self, version: int, weights: int) -> None:
        """Weights enter an engine."""
        if (version, weights) not in self.ever:
            self.refuse(f"an engine loaded weights {weights} as version {version}, which nobody published")

    def refuse(self, text: str) -> None:
        self.problem = self.problem or Violation(text)
        raise self.problem


class Lineage:
    """What one learner published and was trained on."""

    def __init__(self, witness: Witness, trained: dict[int, list[str]]) -> None:
        self.trained = trained
        """consuming version -> trajectory ids"""
        self._weights: dict[int, int] = {}
        self._witness = witness

    @property
    def newest(self) -> int:
        """Fingerprint of the newest weights."""
        return self._weights[max(self._weights)]

    def resumes(self, version: int) -> None:
        """The learner went back to `version`: later training is not part of its weights."""
        self.trained = {v: ids for v, ids in self.trained.items() if v < version}

    def published(self, version: int, weights: int) -> None:
        if self._weights.get(version, weights) != weights:
            self._witness.refuse(f"version {version} was published with other weights before")
        self._weights[version] = weights
        self._witness.ever.add((version, weights))

    def trains(self, version: int, table: pa.Table) -> list[str]:
        """Check a batch; return its ids."""
        refuse, rows = self._witness.refuse, table.to_pylist()
        ids = [row["id"] for row in rows]
        before = {slot_of(i) for batch in self.trained.values() for i in batch}
        replayable = self._witness.replay_max_age is not None
        if version in self.trained or version != max(self.trained, default=-1) + 1:
            refuse(f"version {version} is consumed after versions {sorted(self.trained)}")
        if len({slot_of(i) for i in ids}) != len(ids):
            refuse(f"the batch of version {version} repeats a slot: {ids}")
        if (again := [i for i in ids if slot_of(i) in before]) and not replayable:
            refuse(f"trained twice in a lineage: {again}")
        for row in rows:
            self._check_row(version, row, is_replayed=slot_of(row["id"]) in before)
        order = [(row["epoch"], row["task"], row["sample"]) for row in rows]
        if order != sorted(order):
            refuse(f"batch {version} is not in the order of identity: {order}")
        self.trained[version] = ids
        return ids

    def _check_row(self, version: int, row: dict[str, Any], *, is_replayed: bool) -> None:
        witness = self._witness
        bound = witness.replay_max_age if is_replayed and witness.replay_max_age is not None else witness.max_staleness
        if version - row["oldest_version"] > bound:
            witness.refuse(f"{row['id']} of version {row['oldest_version']} is trained at {version}, bound {bound}")
        if row["reward_valid"] != (row["reward"] is not None) or not (row["reward_valid"] or witness.judged == "batch"):
            witness.refuse(f"{row['id']} is trained without a valid reward")
        if row["tokens"] != witness.tokens(row, self._weights):
            witness.refuse(f"{row['id']} holds tokens that the weights it names did not sample")


def slot_of(trajectory: str) -> str:
    return trajectory.rsplit(".", 2)[0]

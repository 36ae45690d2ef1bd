"""What one update consumes: whole groups, their rows, and what each row is rewarded with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from buffers.groups import Group, Row
from buffers.ledger import Event, EventKind
from buffers.live_groups import Verdict
from buffers.scores import Score, StepRewards

__all__ = ["Batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one update consumes."""

    version: int
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    """In the order of identity."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By trajectory id, of what is scored when it is read; the others keep what they got at arrival."""
    scoring_s: Mapping[str, float] = field(default_factory=dict)
    """Component -> seconds that it took for these verdicts, at most."""

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.rows]

    def reward(self, row: Row) -> float | None:
        """Return the total reward that a row is trained with; None where it is invalid."""
        return self.verdicts[row.id].total if row.id in self.verdicts else row.reward

    def steps(self, row: Row) -> StepRewards | None:
        """Return the rewards of a row's steps that it is trained with, beside its total."""
        return self.verdicts[row.id].steps if row.id in self.verdicts else row.steps

    def scores(self, row: Row) -> Mapping[str, Score]:
        """Return the scores of all components, unweighted."""
        return self.verdicts[row.id].scores if row.id in self.verdicts else row.scores

    def events(self, kind: EventKind) -> list[Event]:
        """Return what the ledger records of its rows when it is taken, or trained."""
        slots = {row.id: m for group in self.groups for m in group.members for row in m.rows}
        replayed = {row.id for group in self.groups if group.times_trained for row in group.valid_rows}
        return [
            Event(
                kind,
                slots[row.id].slot,
                slots[row.id].attempt,
                row.node,
                version=self.version,
                reason="replay" if row.id in replayed else "",
                reward=self.reward(row) if kind is EventKind.TRAINED else None,
            )
            for row in self.rows
        ]

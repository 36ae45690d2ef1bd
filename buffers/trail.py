"""Where a lane stands, told so that another process can stand there too.

    seed -> reset -> all actions of the episode so far -> the same observations, or the environment is not repeatable

A lane that changes its worker, or whose run is resumed, goes on with the episode that it is in: one that was cut
short instead would be missing among the long ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Piece", "Trail", "Trails", "pieces"]

COLUMNS = ("id", "task", "num_sampled", "metadata", "actions", "last_state")
"""Of a stored fragment, those that `pieces` reads; `last_state` may be missing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trail:
    """The way of a lane through its present episode."""

    seed: int
    """Of the episode."""
    episode: int
    """Its ordinal in the lane."""
    actions: NDArray[np.float32]
    """[n, A] all that were taken in it, in order."""
    state: NDArray[np.float32]
    """[S] recurrent, before the next step."""
    shown: str
    """Digest of the observations before the next step, see `EnvironmentSpec.digest`."""


class Piece(NamedTuple):
    """What a fragment adds to the trail of its lane."""

    id: str
    lane: int
    came_from: tuple[int, int]
    """(seed of the episode, step within it) before its first step."""
    left: dict[str, Any]
    """{"seed", "step", "episode", "shown"} after its last step."""
    actions: NDArray[np.float32]
    """[T, A]"""
    state: NDArray[np.float32]

    @property
    def leads_to(self) -> tuple[int, int]:
        """(seed of the episode, step within it) after its last step."""
        return self.left["seed"], self.left["step"]

    @property
    def is_whole(self) -> bool:
        """Return whether the episode that the lane is in afterwards began in this fragment, or at its beginning."""
        return bool(self.left["step"] <= len(self.actions))

    def after(self, before: Trail | None) -> Trail | None:
        """Return the trail behind this fragment; None where `before`, the one in front of it, does not lead here."""
        actions = self.actions[len(self.actions) - self.left["step"] :] if self.is_whole else self.actions
        if not self.is_whole:
            if before is None or (before.seed, len(before.actions)) != self.came_from:
                return None
            actions = np.concatenate([before.actions, actions])
        seed, episode, shown = (self.left[name] for name in ("seed", "episode", "shown"))
        return Trail(seed=seed, episode=episode, actions=actions, state=self.state, shown=shown)


def pieces(table: pa.Table) -> Iterator[Piece]:
    """Yield the fragments of a table, in order; those of a run that did not tell where they ended are left out."""
    notes = (json.loads(note) for note in table["metadata"].to_pylist())
    states = table["last_state"].to_pylist() if "last_state" in table.column_names else [None] * len(table)
    names, lanes, steps = (table[name].to_pylist() for name in ("id", "task", "num_sampled"))
    for row, (name, lane, T, note, state) in enumerate(zip(names, lanes, steps, notes, states, strict=True)):
        if "left" in note:
            stood = note["environment"]
            actions = np.array(table["actions"][row].values, np.float32).reshape(T, -1)
            memory = np.frombuffer(state or b"", np.float32)
            yield Piece(name, lane, (stood["seed"], stood["step"]), note["left"], actions, memory)


class Trails:
    """Of every lane, how it came to where its newest fragment ended."""

    def __init__(self) -> None:
        self._held: dict[int, Trail] = {}

    def follow(self, piece: Piece) -> None:
        """A lane has gone on by a fragment."""
        if (trail := piece.after(self._held.pop(piece.lane, None))) is not None:
            self._held[piece.lane] = trail

    def forget(self, lane: int) -> None:
        """The environment of a lane broke: its episode cannot go on."""
        self._held.pop(lane, None)

    def of(self, lane: int) -> Trail | None:
        """Return the trail of a lane; None where it has to begin a fresh episode."""
        return self._held.get(lane)

"""The trails of a run that goes on: found by walking its stored fragments from the newest one back.

    lane:  0 - 1 - 2 - 3 - 4 - 5            4, 5: rolled back by a resume
                        `- 4'- 5'           4': the last one that is part of the weights; it goes back to 3

From the last fragment of a lane that counts, one goes back to where the episode behind it began. A fragment's
predecessor is the nearest one stored before it that ended where it begins: payloads are stored in the order in which
they were made (`buffers.intake`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from buffers.streams import read_back
from buffers.trail import COLUMNS, Piece, Trails, pieces

__all__ = ["trails_of"]


def trails_of(run_folder: Path, last: Mapping[int, Collection[str]]) -> Trails:
    """Return where the lanes of a run stand.

    A lane whose fragments are gone (see `records.retention`) or told no end is left out: it begins a fresh episode.

    Args:
      last: lane -> ids of its fragments that are part of the weights.
    """
    chains = {lane: _Chain(ids) for lane, ids in last.items()}
    for piece in _newest_first(run_folder):
        if piece.lane in chains:
            chains[piece.lane].meet(piece)
        if all(chain.is_whole for chain in chains.values()):
            break
    trails = Trails()
    for piece in (piece for chain in chains.values() for piece in reversed(chain.pieces)):
        trails.follow(piece)
    return trails


def _newest_first(run_folder: Path) -> Iterator[Piece]:
    for table in read_back(run_folder / "trajectories", "trajectories", COLUMNS):
        yield from reversed(list(pieces(table)))


class _Chain:
    """Fragments of one lane, newest first, until the beginning of an episode."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = ids
        self.pieces: list[Piece] = []

    @property
    def is_whole(self) -> bool:
        return bool(self.pieces) and self.pieces[-1].is_whole

    def meet(self, piece: Piece) -> None:
        """Take an older fragment in, if it is the one that is sought."""
        if self.is_whole:
            return
        sought = piece.leads_to == self.pieces[-1].came_from if self.pieces else piece.id in self._ids
        if sought:
            self.pieces.append(piece)

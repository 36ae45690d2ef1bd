"""Rows: prefix trees of the sequences that share a forward pass.

What sequences of a group have in common (the prompt, and however much of the completions) is computed
once. Each token sees its ancestors, and its position is its depth:

    sequences  p q a b    p q a c d    p q e
    row        p q a b c d e           positions 0 1 2 3 3 4 2         7 tokens instead of 12
    d sees     p q a   c d

Nothing from a sequence's last loss token on is ever an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learners.batch import Item

__all__ = ["Row", "couple", "plan_rows"]

SHARED_ROW_TOKENS = 256
"""Longest row that still takes another sequence; attention costs the square of a row's length."""

Path = NDArray[np.int64]
"""Places within a row, one per input token of a sequence, in order."""


@dataclass(slots=True)
class Row:
    """A prefix tree of sequences; nodes are numbered in the order they were added."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """-1 at a root."""
    paths: dict[int, Path] = field(default_factory=dict)
    """Sequence -> its nodes."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """True where plain causal attention would be wrong."""
        return len(self) > max(len(path) for path in self.paths.values())

    def common(self, tokens: Sequence[int]) -> list[int]:
        """Return the nodes of the longest prefix of `tokens` that the tree holds."""
        path: list[int] = []
        for token in tokens:
            child = self._children.get((path[-1] if path else -1, token))
            if child is None:
                break
            path.append(child)
        return path

    def add(self, member: int, tokens: Sequence[int], path: list[int]) -> None:
        """Insert a sequence whose first `len(path)` tokens are the nodes `path`."""
        for depth in range(len(path), len(tokens)):
            node, parent = len(self), path[-1] if path else -1
            self._children[parent, tokens[depth]] = node
            self.tokens.append(tokens[depth])
            self.depths.append(depth)
            self.parents.append(parent)
            path.append(node)
        self.paths[member] = np.array(path, dtype=np.int64)

    def nesting(self) -> tuple[list[int], list[int]]:
        """Return (enter, leave) of each node, see `learners.models.visibility`."""
        sizes = [1] * (len(self) + 1)  # the last one, at -1, is above the roots
        for node in reversed(range(len(self))):  # children come after their parents
            sizes[self.parents[node]] += sizes[node]
        enter, free = [0] * len(self), [0] * (len(self) + 1)
        for node, parent in enumerate(self.parents):
            enter[node] = free[parent]
            free[parent] += sizes[node]
            free[node] = enter[node] + 1
        return enter, [first + sizes[node] for node, first in enumerate(enter)]


def plan_rows(items: Sequence[Item], members: Sequence[int], *, share: bool = True) -> list[Row]:
    """Put sequences into rows; those of a group share a row while it stays short.

    Args:
      items: all sequences.
      members: those to place, in identity order; each has a loss token.
      share: False gives each sequence its own row, the plain padded layout.
    """
    rows: list[Row] = []
    latest: dict[int, Row] = {}
    for i in members:
        inputs = items[i].tokens[: items[i].targets[-1]].tolist()
        row = latest.get(items[i].group) if share else None
        path = row.common(inputs) if row is not None else []
        # A long common prefix is worth a long row.
        if row is None or not path or len(row) + len(inputs) - len(path) > max(SHARED_ROW_TOKENS, 2 * len(path)):
            row, path = Row(), []
            rows.append(row)
            latest[items[i].group] = row
        row.add(i, inputs, path)
    return rows


def couple(rows: Sequence[Row], items: Sequence[Item], coupling: str) -> list[list[Row]]:
    """Return the sets of rows that may not be parted."""
    if coupling in ("token", "sequence"):
        return [[row] for row in rows]
    if coupling == "batch":
        return [list(rows)] if rows else []
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(items[next(iter(row.paths))].group, []).append(row)
    return list(groups.values())

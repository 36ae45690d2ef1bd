"""Micro-batches: which tokens share a forward pass, and where their log-probabilities go.

A row is a prefix tree: what sequences of a group have in common (the prompt, and however much of
the completions) is computed once. Each token sees its ancestors, and its position is its depth:

    sequences  p q a b    p q a c d    p q e
    row        p q a b c d e           positions 0 1 2 3 3 4 2         7 tokens instead of 12
    d sees     p q a   c d

so gradients are those of the padded computation at a fraction of its tokens. Sequences with nothing
in common are ordinary padded rows. Nothing from a sequence's last loss token on is ever an input.

Dimensions: R rows, T padded row length, B sequences, C loss tokens (padded), N loss tokens (flat).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.batch import Item

__all__ = ["MicroBatch", "Row", "pack", "plan_rows"]

SHARED_ROW_TOKENS = 256
"""Longest row that still takes another sequence; attention costs the square of a row's length."""

Path = NDArray[np.int64]
"""Places within a row, one per input token of a sequence, in order."""


@dataclass(slots=True)
class Row:
    """A prefix tree of sequences; nodes are numbered in the order they were added."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
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
            node = len(self)
            self._children[path[-1] if path else -1, tokens[depth]] = node
            self.tokens.append(tokens[depth])
            self.depths.append(depth)
            path.append(node)
        self.paths[member] = np.array(path, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tensors of one forward pass."""

    members: list[int]
    """[B] indices of the sequences, in identity order."""
    tokens: Tensor
    """[R, T] int64"""
    positions: Tensor
    """[R, T] int64"""
    mask: Tensor | None
    """[R, T, T] bool, query sees key; None is plain causal."""
    sources: Tensor
    """[N] flat index into R x T of the position that predicts each loss token."""
    targets: Tensor
    """[N] int64 the loss tokens."""
    temperatures: Tensor
    """[N] float32"""
    cells: Tensor
    """[N] flat index into B x C of each loss token."""
    width: int
    """C"""

    def grid(self, values: Tensor) -> Tensor:
        """Return [B, C]: flat [N] values at their sequence and place, 0 elsewhere; keeps gradient."""
        empty = values.new_zeros(len(self.members) * self.width)
        return empty.index_copy(0, self.cells, values).view(len(self.members), self.width)

    def to(self, device: str) -> MicroBatch:
        """Return the same micro-batch with its tensors on a device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            sources=self.sources.to(device),
            targets=self.targets.to(device),
            temperatures=self.temperatures.to(device),
            cells=self.cells.to(device),
        )


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


def pack(
    items: Sequence[Item], members: Sequence[int], *, budget: int, coupling: str = "token", share: bool = True
) -> list[MicroBatch]:
    """Return the micro-batches of some sequences.

    Args:
      items: all sequences.
      members: those to pack, in identity order; each has a loss token.
      budget: padded tokens of one micro-batch, rows x length; only a single coupled set may exceed it.
      coupling: token | sequence | group | pair | batch: what is never parted; a pair is within a group.
      share: False gives each sequence its own row.
    """
    sets = couple(plan_rows(items, members, share=share), items, coupling)
    # Equal lengths side by side; the sort is stable, so that ties stay in identity order.
    sets.sort(key=lambda rows: max(len(row) for row in rows))
    batches: list[list[Row]] = []
    for rows in sets:
        longest = max(len(row) for row in rows)
        if batches and (len(batches[-1]) + len(rows)) * longest <= budget:
            batches[-1].extend(rows)
        else:
            batches.append(list(rows))
    return [lay_out(rows, items) for rows in batches]


def lay_out(rows: Sequence[Row], items: Sequence[Item]) -> MicroBatch:
    """Return the tensors of some rows."""
    places = {i: (r, path) for r, row in enumerate(rows) for i, path in row.paths.items()}
    members, height = sorted(places), max(len(row) for row in rows)
    lengths = [len(items[i].targets) for i in members]
    width = max(lengths)
    tokens, positions = np.zeros((2, len(rows), height), np.int64)
    for r, row in enumerate(rows):
        tokens[r, : len(row)], positions[r, : len(row)] = row.tokens, row.depths
    # The token before a target predicts it.
    sources = [places[i][0] * height + places[i][1][items[i].targets - 1] for i in members]
    temperatures = np.array([items[i].temperature for i in members], np.float32)
    return MicroBatch(
        members,
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(visibility(rows, height)) if any(row.branches for row in rows) else None,
        torch.from_numpy(np.concatenate(sources)),
        torch.from_numpy(np.concatenate([items[i].tokens[items[i].targets] for i in members])),
        torch.from_numpy(temperatures.repeat(lengths)),
        torch.from_numpy(np.flatnonzero(np.arange(width) < np.array(lengths)[:, None])),
        width,
    )


def visibility(rows: Sequence[Row], height: int) -> NDArray[np.bool_]:
    """Return [R, T, T]: a query sees itself and its ancestors; padding sees itself alone."""
    mask = np.zeros((len(rows), height, height), np.bool_)
    causal = np.tri(height, dtype=np.bool_)
    mask[:, np.arange(height), np.arange(height)] = True
    for visible, row in zip(mask, rows, strict=True):
        for path in row.paths.values():
            visible[np.ix_(path, path)] = causal[: len(path), : len(path)]
    return mask

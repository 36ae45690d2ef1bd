"""Micro-batches: which rows share a forward pass, and where the log-probabilities of their tokens go.

Rows are prefix trees (see `learners.rows`); with nothing shared they are ordinary padded sequences, and
gradients are those of the padded computation in either case. With `varlen` the rows of a micro-batch
follow each other in one long row without padding, of which a GPU computes only the blocks that hold a
visible pair; a CPU, without such blocks, is faster on padded rows of about equal length.

Dimensions: R rows, T padded row length, B sequences, C loss tokens (padded), N loss tokens (flat).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.batch import Item
from learners.models.visibility import BLOCK, Mask, block_mask, dense_mask
from learners.rows import Row, couple, plan_rows

__all__ = ["MicroBatch", "pack"]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tensors of one forward pass."""

    members: list[int]
    """[B] indices of the sequences, in identity order."""
    tokens: Tensor
    """[R, T] int64"""
    positions: Tensor
    """[R, T] int64"""
    mask: Mask
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


def pack(
    items: Sequence[Item],
    members: Sequence[int],
    *,
    budget: int,
    coupling: str = "token",
    share: bool = True,
    varlen: bool = False,
    device: str = "cpu",
) -> list[MicroBatch]:
    """Return the micro-batches of some sequences.

    Args:
      items: all sequences.
      members: those to pack, in identity order; each has a loss token.
      budget: tokens of one micro-batch, with their padding; only a single coupled set may exceed it.
      coupling: token | sequence | group | pair | batch: what is never parted; a pair is within a group.
      share: False gives each sequence its own row.
      varlen: one long row per micro-batch instead of padded ones.
      device: where its tensors are.
    """
    sets = couple(plan_rows(items, members, share=share), items, coupling)
    # Equal lengths side by side; the sort is stable, so that ties stay in identity order.
    sets.sort(key=lambda rows: max(len(row) for row in rows))
    return [lay_out(rows, items, varlen, device) for rows in fill(sets, budget, varlen)]


def fill(sets: Sequence[Sequence[Row]], budget: int, varlen: bool) -> Iterator[list[Row]]:
    """Yield the rows of each micro-batch: as many sets as fit into the budget; the longest rows come last."""
    rows: list[Row] = []
    tokens = 0
    for coupled in sets:
        lengths = [len(row) for row in coupled]
        filled = tokens + sum(lengths) if varlen else (len(rows) + len(coupled)) * max(lengths)
        if rows and filled > budget:
            yield rows
            rows, tokens = [], 0
        rows.extend(coupled)
        tokens += sum(lengths)
    if rows:
        yield rows


def lay_out(rows: Sequence[Row], items: Sequence[Item], varlen: bool, device: str) -> MicroBatch:
    """Return the tensors of some rows."""
    lengths = [len(row) for row in rows]
    height = max(lengths)
    shape, starts = (len(rows), height), [r * height for r in range(len(rows))]
    if varlen:
        shape, starts = (1, -(-sum(lengths) // BLOCK) * BLOCK), [0, *accumulate(lengths)][:-1]
    tokens, positions = np.zeros((2, *shape), np.int64)
    for row, start in zip(rows, starts, strict=True):
        here = slice(start, start + len(row))
        tokens.flat[here], positions.flat[here] = row.tokens, row.depths
    paths = {i: path + start for row, start in zip(rows, starts, strict=True) for i, path in row.paths.items()}
    members = sorted(paths)
    counts = [len(items[i].targets) for i in members]
    width = max(counts)
    temperatures = np.array([items[i].temperature for i in members], np.float32)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return MicroBatch(
        members=members,
        tokens=tensor(tokens),
        positions=tensor(positions),
        mask=visibility(rows, starts, shape, varlen, device),
        # The token before a target predicts it.
        sources=tensor(np.concatenate([paths[i][items[i].targets - 1] for i in members])),
        targets=tensor(np.concatenate([items[i].tokens[items[i].targets] for i in members])),
        temperatures=tensor(temperatures.repeat(counts)),
        cells=tensor(np.flatnonzero(np.arange(width) < np.array(counts)[:, None])),
        width=width,
    )


def visibility(rows: Sequence[Row], starts: Sequence[int], shape: tuple[int, int], varlen: bool, device: str) -> Mask:
    """Return the mask of rows that begin at the flat index `starts` of a micro-batch; padding sees itself alone."""
    if not varlen and not any(row.branches for row in rows):
        return None
    enter = np.arange(shape[0] * shape[1])
    leave = enter + 1
    for row, start in zip(rows, starts, strict=True):
        here = slice(start, start + len(row))
        enter[here], leave[here] = np.array(row.nesting()) + start
    intervals = (torch.from_numpy(side.reshape(shape)).to(device) for side in (enter, leave))
    return block_mask(*intervals) if varlen and device.startswith("cuda") else dense_mask(*intervals)

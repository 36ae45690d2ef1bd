"""What one update needs of a trajectory table. B sequences; positions count tokens of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from buffers.trajectory import Kind
from configs.errors import DataError

__all__ = ["Batch", "Item", "Steps", "read_batch", "shard", "split_groups"]

COLUMNS = (
    *("id", "group", "tokens", "kinds", "loss_mask", "logprobs", "temperature"),
    *("reward", "reward_valid", "step_ends", "step_rewards"),
)


@dataclass(frozen=True, slots=True)
class Item:
    """One sequence. T tokens, N loss tokens."""

    tokens: NDArray[np.int64]
    """[T] prompt, tool output and completion."""
    targets: NDArray[np.int64]
    """[N] ascending positions of the loss tokens; never 0, which nothing predicts."""
    behaviour: NDArray[np.float32]
    """[N] nats."""
    temperature: float
    group: int
    """Ordinal of the group within the table."""


class Steps(NamedTuple):
    """Rewards of the K steps of one sequence that some loss token has led to."""

    places: NDArray[np.int64]
    """[K] which of its loss tokens is the last one of each step."""
    values: NDArray[np.float64]
    """[K] reward units."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A table in identity order: by group, then by id, however the rows arrived."""

    ids: list[str]
    items: list[Item]
    groups: NDArray[np.int64]
    """[B] group ordinal, ascending."""
    rewards: NDArray[np.float64]
    """[B] reward units; 0 where invalid."""
    valid: NDArray[np.bool_]
    """[B] the reward is a score."""
    steps: list[Steps]
    """[B] empty where no component gives credit to steps."""

    @property
    def trainable(self) -> list[int]:
        """Sequences with a valid reward and a loss token."""
        return [i for i, item in enumerate(self.items) if self.valid[i] and len(item.targets)]


def read_batch(table: pa.Table) -> Batch:
    """Return the batch of a table.

    Raises:
      DataError: a column is missing, or a row was sampled greedily.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"learner batch lacks columns {', '.join(missing)}; it must follow the trajectory schema")
    ids, names = table["id"].to_pylist(), table["group"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (names[i], ids[i]))
    ordinals: dict[str, int] = {}
    for i in order:
        ordinals.setdefault(names[i], len(ordinals))
    groups = [ordinals[name] for name in names]
    items = read_items(table, groups)
    steps = read_steps(table, items)
    valid = np.asarray(table["reward_valid"].to_numpy(), dtype=bool)
    rewards = np.where(valid, np.nan_to_num(table["reward"].to_numpy()), 0.0)
    return Batch(
        [ids[i] for i in order],
        [items[i] for i in order],
        np.array([groups[i] for i in order], dtype=np.int64),
        rewards[order],
        valid[order],
        [steps[i] for i in order],
    )


def lists(table: pa.Table, name: str) -> list[NDArray[np.generic]]:
    """Return a list column as one view per row."""
    column = table[name].combine_chunks()
    chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values = chunk.values.to_numpy(zero_copy_only=False)
    offsets = chunk.offsets.to_numpy()
    return [values[a:b] for a, b in pairwise(offsets)]


def read_items(table: pa.Table, groups: Sequence[int]) -> list[Item]:
    """Return the sequences of a table, in its order."""
    if not len(table):
        return []
    columns = (lists(table, name) for name in ("tokens", "kinds", "loss_mask", "logprobs"))
    temperatures, ids = table["temperature"].to_pylist(), table["id"].to_pylist()
    every = table["loss_mask"].is_null().to_numpy()  # null: the loss counts all sampled tokens
    items = []
    for i, (tokens, kinds, loss, logprobs) in enumerate(zip(*columns, strict=True)):
        if not temperatures[i] > 0:
            raise DataError(
                f"trajectory {ids[i]}: temperature is {temperatures[i]}; only samples of a distribution have "
                "a policy gradient; set rollout.temperature > 0"
            )
        sampled = kinds == Kind.SAMPLED
        targets = np.flatnonzero(sampled if every[i] else sampled & loss.astype(bool))
        targets = targets[targets > 0]
        items.append(Item(tokens.astype(np.int64), targets, logprobs[targets], temperatures[i], groups[i]))
    return items


def read_steps(table: pa.Table, items: Sequence[Item]) -> list[Steps]:
    """Return the step rewards of a table, in its order; a step before the first loss token is left out."""
    found = []
    for item, ends, values in zip(items, lists(table, "step_ends"), lists(table, "step_rewards"), strict=True):
        places = np.searchsorted(item.targets, ends, side="left") - 1  # the last loss token before each end
        found.append(Steps(places[places >= 0], values[places >= 0].astype(np.float64)))
    return found


def split_groups(
    rows: Sequence[int], groups: NDArray[np.int64], weights: Sequence[float], parts: int
) -> list[list[int]]:
    """Cut rows into `parts` contiguous runs of about equal weight that never split a group.

    Args:
      rows: indices into `groups`, ascending.
      groups: [B] group ordinal, ascending.
      weights: weight of each of `rows`, for example its tokens.

    Returns:
      `parts` lists, some possibly empty.
    """
    total, before = float(sum(weights)), 0.0
    owner: dict[int, int] = {}
    result: list[list[int]] = [[] for _ in range(parts)]
    for row, weight in zip(rows, weights, strict=True):
        # A group goes where its first row falls, so that cuts lie between groups.
        part = owner.setdefault(int(groups[row]), min(parts - 1, int(before * parts / total)))
        result[part].append(row)
        before += weight
    return result


def shard(batch: Batch, rows: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Return the rows of one rank: whole groups in identity order, balanced by tokens."""
    return split_groups(rows, batch.groups, [len(batch.items[i].tokens) for i in rows], world_size)[rank]

"""Trajectories as rows of Arrow tables, and back; the tables themselves are in `buffers.tables`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from buffers.identity import Slot
from buffers.scores import StepRewards
from buffers.tables import EVENTS, PAIRS, SCORES, TRAJECTORY, VERSIONS, upgrade
from buffers.trajectory import Sampling, Source, Span, Status, Trajectory
from configs.errors import DataError

__all__ = ["EVENTS", "PAIRS", "SCORES", "TRAJECTORY", "VERSIONS", "from_table", "to_table", "upgrade", "with_rewards"]

PLAIN = (
    *("attempt", "node", "prompt", "completion", "answer", "finish_reason", "model", "role", "user"),
    *("episode", "turns", "tree_id", "node_id", "parent_id", "depth", "fork_token", "started_at", "finished_at"),
)
# Column of a plain value -> attribute of a trajectory.
SCALARS = {
    "source": "slot.source",
    "epoch": "slot.epoch",
    "task": "slot.task",
    "sample": "slot.sample",
    "origin": "source",
    "group": "slot.group",
    **{n: f"sampling.{n}" for n in ("temperature", "top_p", "top_k", "max_completion_length", "stop")},
    **{n: n for n in ("id", "status", "oldest_version", "num_sampled")},
    **{n: n for n in PLAIN},
}


def to_table(trajectories: Sequence[Trajectory]) -> pa.Table:
    """Return one row per trajectory, in order.

    Raises:
      pyarrow.ArrowInvalid: a number does not fit its column.
    """
    columns = {name: _values(trajectories, attrgetter(path)) for name, path in SCALARS.items()}
    columns["group"] = [str(group) for group in columns["group"]]
    columns["metadata"] = [json.dumps(t.metadata) if t.metadata else "{}" for t in trajectories]
    arrays = {n: pa.array(values, TRAJECTORY.field(n).type) for n, values in columns.items()}
    for name in ("tokens", "kinds", "logprobs", "loss_mask"):
        arrays[name] = _lists(_values(trajectories, attrgetter(name)), TRAJECTORY.field(name).type)
    arrays |= _runs(trajectories) | _spans(trajectories)
    nulls = {f.name: pa.nulls(len(trajectories), f.type) for f in TRAJECTORY if f.name not in arrays}
    return pa.table([arrays.get(n, nulls.get(n)) for n in TRAJECTORY.names], schema=TRAJECTORY)


def from_table(table: pa.Table) -> list[Trajectory]:
    """Return the trajectories of text rows; the inverse of `to_table`. Arrays are writable copies.

    Raises:
      DataError: the table is of a newer version, or has a decision row.
    """
    table = upgrade(table, TRAJECTORY).combine_chunks()
    if table["tokens"].null_count:
        raise DataError("from_table reads text rows; select those with tokens that are not null")
    lists = {n: _arrays(table[n]) for n in ("tokens", "kinds", "logprobs", "loss_mask")}
    names = {*SCALARS, "metadata", "version_values", "version_counts", "span_kinds", "span_starts", "span_ends"}
    rows = table.select(sorted(names)).to_pylist()
    return [_trajectory(row, {n: lists[n][i] for n in lists}) for i, row in enumerate(rows)]


def _trajectory(row: dict[str, Any], arrays: dict[str, Any]) -> Trajectory:
    return Trajectory(
        slot=Slot(row["source"], row["epoch"], row["task"], row["sample"]),
        versions=list(zip(row["version_values"], row["version_counts"], strict=True)),
        spans=[Span(*s) for s in zip(row["span_kinds"], row["span_starts"], row["span_ends"], strict=True)],
        metadata=json.loads(row["metadata"]),
        status=Status(row["status"]),
        source=Source(row["origin"]),
        sampling=Sampling(
            temperature=row["temperature"],
            top_p=row["top_p"],
            top_k=row["top_k"],
            max_completion_length=row["max_completion_length"],
            stop=tuple(row["stop"]),
        ),
        **arrays,
        **{n: row[n] for n in PLAIN},
    )


def with_rewards(
    table: pa.Table,
    rewards: Sequence[float | None],
    *,
    steps: Sequence[StepRewards | None] = (),
    intrinsic: Sequence[Sequence[float] | None] = (),
) -> pa.Table:
    """Return trajectories as the learner reads them.

    New columns: `reward` (null: invalid), `reward_valid`, and of K steps `step_ends` [K] (token positions,
    exclusive, ascending) and `step_rewards` [K], both null where no component gives credit to steps.

    Args:
      intrinsic: of each row one reward for each step, None where there is no valid score. A text takes none:
        its intrinsic reward is part of `reward`.

    Raises:
      DataError: a fragment has fewer or more steps than intrinsic rewards.
    """
    if any(vector is not None for vector in intrinsic) and table["actions"].null_count < len(table):
        table = _with_intrinsic(table, intrinsic)
    table = table.append_column("reward", pa.array(rewards, pa.float64()))
    known = steps or [None] * len(table)
    ends = pa.array([None if s is None else s.ends for s in known], pa.list_(pa.int32()))
    values = pa.array([None if s is None else s.values for s in known], pa.list_(pa.float64()))
    table = table.append_column("step_ends", ends).append_column("step_rewards", values)
    return table.append_column("reward_valid", pa.array([reward is not None for reward in rewards], pa.bool_()))


def _with_intrinsic(table: pa.Table, intrinsic: Sequence[Sequence[float] | None]) -> pa.Table:
    for name, steps, vector in zip(table["id"].to_pylist(), table["num_sampled"].to_pylist(), intrinsic, strict=True):
        if vector is not None and len(vector) != steps:
            raise DataError(f"{name}: the intrinsic score has {len(vector)} values for {steps} steps; give one each")
    place = table.schema.get_field_index("intrinsic_rewards")
    field = TRAJECTORY.field("intrinsic_rewards")
    return table.set_column(place, field, pa.array(intrinsic, field.type))


def _values(trajectories: Sequence[Trajectory], get: attrgetter[Any]) -> list[Any]:
    return [get(t) for t in trajectories]


def _lists(arrays: Sequence[Any], column: pa.ListType) -> pa.Array:
    """Return a list column; None is null. Values are concatenated once, never boxed."""
    present = [a for a in arrays if a is not None]
    values = np.concatenate(present) if present else np.empty(0)
    missing = pa.array([a is None for a in arrays], pa.bool_()) if len(present) < len(arrays) else None
    return _list_column([0 if a is None else len(a) for a in arrays], pa.array(values, column.value_type), missing)


def _list_column(lengths: Sequence[int], values: pa.Array, missing: pa.Array | None = None) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=missing)


def _runs(trajectories: Sequence[Trajectory]) -> dict[str, pa.Array]:
    lengths = [len(t.versions) for t in trajectories]
    runs = np.array([run for t in trajectories for run in t.versions], np.int64).reshape(-1, 2)
    names = ("version_values", "version_counts")
    return {n: _list_column(lengths, pa.array(runs[:, i], pa.int32())) for i, n in enumerate(names)}


def _spans(trajectories: Sequence[Trajectory]) -> dict[str, pa.Array]:
    lengths, spans = [len(t.spans) for t in trajectories], [s for t in trajectories for s in t.spans]
    columns = {"span_kinds": "kind", "span_starts": "start", "span_ends": "end"}
    values = {n: [getattr(s, a) for s in spans] for n, a in columns.items()}
    return {n: _list_column(lengths, pa.array(v, TRAJECTORY.field(n).type.value_type)) for n, v in values.items()}


def _arrays(column: pa.ChunkedArray) -> list[NDArray[Any] | None]:
    """Return the list of each row as an array, None for null."""
    chunk = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    values = np.array(chunk.values.to_numpy(zero_copy_only=False))  # a copy: Arrow's memory is read-only
    offsets, valid = chunk.offsets.to_numpy(), chunk.is_valid().to_numpy(zero_copy_only=False)
    return [values[offsets[i] : offsets[i + 1]] if valid[i] else None for i in range(len(chunk))]

"""Decision rows: fragments of an environment lane, as Arrow rows and back as arrays.

    lane e:  | fragment 0 | fragment 1 | ...     each T steps; episodes begin and end anywhere in them

Dimensions: T steps of a fragment, B fragments of a table, A action columns, S numbers of recurrent state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from buffers.environment_spec import EnvironmentSpec, Observations
from buffers.identity import Slot, trajectory_id
from buffers.tables import TRAJECTORY
from configs.errors import DataError

__all__ = ["Episode", "Fragment", "Fragments", "fragments_to_table", "read_fragments"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One that ended inside a fragment."""

    extrinsic_return: float
    """Sum of its rewards, undiscounted."""
    length: int
    """Steps."""
    success: bool | None = None
    """None where neither the environment nor the configuration says what success is."""


@dataclass(kw_only=True, slots=True)
class Fragment:
    """T consecutive steps of one lane."""

    slot: Slot
    attempt: int
    observations: Observations
    """[T + 1, ...]: before each step, and after the last one."""
    actions: NDArray[np.float32]
    """[T, A]"""
    logprobs: NDArray[np.float32]
    """[T] nats, log mu(action), summed over columns."""
    versions: list[tuple[int, int]]
    """Run lengths (version, count) over the steps."""
    rewards: NDArray[np.float32]
    """[T] extrinsic."""
    terminated: NDArray[np.bool_]
    """[T]"""
    truncated: NDArray[np.bool_]
    """[T]"""
    final_observations: Observations
    """[truncated.sum(), ...]: what followed each truncated step, where the next row is a new episode's already."""
    mask: NDArray[np.bool_] | None = None
    """[T] False where nothing was decided (a backend's own reset step); None: every step counts."""
    recurrent_state: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """[S] before the first step."""
    captions: list[str] = field(default_factory=list)
    """T texts, of what each step led to; "" says nothing. Empty without a captioner."""
    caption_counts: NDArray[np.int32] | None = None
    """[T] how often the caption occurred in its episode so far, this step included."""
    episodes: list[Episode] = field(default_factory=list)
    """Those that ended in it, in order."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Where the lane stood before the first step: {"seed": of the episode, "step": within it, "episode": ordinal}."""
    left: Mapping[str, Any] = field(default_factory=dict)
    """The same after the last step, and "shown", the digest of what it shows then; what a `Trail` is made of."""
    last_state: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """[S] after the last step."""
    started_at: float = 0.0
    """Seconds since the Unix epoch."""
    finished_at: float = 0.0


def fragments_to_table(spec: EnvironmentSpec, fragments: Sequence[Fragment]) -> pa.Table:
    """Return one row per fragment, in order, in the columns of `TRAJECTORY`."""
    plain: list[dict[str, Any]] = [_row(spec, fragment) for fragment in fragments]
    columns = {name: [row[name] for row in plain] for name in plain[0]} if plain else {}
    arrays = {n: pa.array(values, TRAJECTORY.field(n).type) for n, values in columns.items()}
    nulls = {f.name: pa.nulls(len(plain), f.type) for f in TRAJECTORY if f.name not in arrays}
    return pa.table([arrays.get(n, nulls.get(n)) for n in TRAJECTORY.names], schema=TRAJECTORY)


def _row(spec: EnvironmentSpec, f: Fragment) -> dict[str, Any]:
    steps = len(f.rewards)
    episodes = [(e.extrinsic_return, e.length, e.success) for e in f.episodes]
    note = {"episodes": episodes, "environment": dict(f.environment), "return": float(f.rewards.sum())}
    if f.left:
        note["left"] = dict(f.left)
    return {
        **dict(zip(("source", "epoch", "task", "sample"), f.slot, strict=True)),
        "attempt": f.attempt, "node": 0, "id": trajectory_id(f.slot, f.attempt), "group": str(f.slot.group),
        "model": "policy", "role": "agent", "episode": 0, "turns": 1, "tree_id": "", "node_id": 0, "parent_id": -1,
        "depth": 0, "fork_token": 0, "user": "", "answer": "", "origin": "policy", "temperature": 1.0, "top_p": 1.0,
        "top_k": 0, "max_completion_length": steps, "stop": [], "status": "finished", "started_at": f.started_at,
        "finished_at": f.finished_at, "oldest_version": min((v for v, _ in f.versions), default=-1),
        "num_sampled": steps, "finish_reason": "length", "metadata": json.dumps(note), "loss_mask": f.mask,
        "logprobs": f.logprobs, "version_values": [v for v, _ in f.versions],
        "version_counts": [n for _, n in f.versions], "observations": spec.encode(f.observations),
        "actions": f.actions.ravel(), "rewards": f.rewards, "terminated": f.terminated, "truncated": f.truncated,
        "final_observations": spec.encode(f.final_observations) if f.truncated.any() else None,
        "recurrent_state": f.recurrent_state.tobytes(), "captions": f.captions or None,
        "caption_counts": f.caption_counts, "last_state": f.last_state.tobytes(),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragments:
    """A table of fragments in the order of identity, as arrays. NaN intrinsic rewards: none was given."""

    ids: list[str]
    observations: Observations
    """[B, T + 1, ...]"""
    actions: NDArray[np.float32]
    """[B, T, A]"""
    logprobs: NDArray[np.float32]
    """[B, T] nats, of the behaviour policy."""
    rewards: NDArray[np.float32]
    """[B, T] extrinsic."""
    intrinsic_rewards: NDArray[np.float32]
    """[B, T] NaN where no reward model spoke."""
    caption_counts: NDArray[np.int32]
    """[B, T] 1 where nothing was counted."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    """[B, T]"""
    mask: NDArray[np.bool_]
    """[B, T] steps that the loss counts."""
    final_observations: Observations
    """[truncated.sum(), ...] in the order of np.argwhere(truncated)."""
    recurrent_state: NDArray[np.float32]
    """[B, S]"""


def read_fragments(spec: EnvironmentSpec, table: pa.Table) -> Fragments:
    """Return the fragments of a table, ordered by slot, however the rows arrived.

    Raises:
      DataError: there is no row, a row is none of this environment's, or fragments differ in length.
    """
    names = ("epoch", "task", "sample", "attempt", "id")
    keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    steps = set(table["num_sampled"].to_pylist())
    if len(steps) != 1:
        raise DataError(f"a batch of fragments has {sorted(steps)} steps; all must have environment.fragment_length")
    table, T, B = table.take(order), steps.pop(), len(order)

    def grid(name: str, dtype: Any, missing: Any = None) -> NDArray[Any]:
        column = table[name].combine_chunks()
        if missing is not None and column.null_count == B:
            return np.full((B, T), missing, dtype)
        if missing is not None and column.null_count:
            rows = [missing if row is None else np.asarray(row, dtype) for row in column.to_pylist()]
            return np.stack([np.broadcast_to(row, T) for row in rows]).astype(dtype)
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype).reshape(B, -1)

    before = [spec.decode(data.as_buffer(), T + 1) for data in table["observations"].combine_chunks()]
    truncated = grid("truncated", np.bool_)
    finals = [
        spec.decode(data.as_buffer(), int(count))
        for data, count in zip(table["final_observations"].combine_chunks(), truncated.sum(1), strict=True)
        if count
    ]
    given = "intrinsic_rewards" in table.column_names
    states = [np.frombuffer(data, np.float32) for data in table["recurrent_state"].to_pylist()]
    return Fragments(
        ids=table["id"].to_pylist(),
        observations={n: np.stack([o[n] for o in before]) for n in spec.observations},
        actions=grid("actions", np.float32).reshape(B, T, spec.actions.columns),
        logprobs=grid("logprobs", np.float32),
        rewards=grid("rewards", np.float32),
        intrinsic_rewards=grid("intrinsic_rewards", np.float32, np.nan) if given else np.full((B, T), np.nan, "f4"),
        caption_counts=grid("caption_counts", np.int32, 1),
        terminated=grid("terminated", np.bool_),
        truncated=truncated,
        mask=grid("loss_mask", np.bool_, True),
        final_observations={
            n: np.concatenate([f[n] for f in finals]) if finals else spec.empty(0)[n] for n in spec.observations
        },
        recurrent_state=np.stack(states),
    )

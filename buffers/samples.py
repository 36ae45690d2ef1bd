"""From trajectory rows to what a reward component is given."""

from __future__ import annotations

import json

import pyarrow as pa

from buffers.scores import Sample
from buffers.trajectory import Span

__all__ = ["to_samples"]

_COLUMNS = [
    "id", "group", "prompt", "completion", "answer", "metadata", "num_sampled", "finish_reason",
    "span_kinds", "span_starts", "span_ends", "user", "tokens",
]  # fmt: skip


def to_samples(table: pa.Table) -> list[Sample]:
    """Return one `Sample` per row of a trajectory table, in order."""
    return [
        Sample(
            id=row["id"],
            group=row["group"],
            prompt=row["prompt"],
            completion=row["completion"],
            answer=row["answer"],
            metadata=json.loads(row["metadata"] or "{}"),
            num_tokens=row["num_sampled"],
            finish_reason=row["finish_reason"],
            spans=tuple(map(Span, row["span_kinds"], row["span_starts"], row["span_ends"])),
            user=row["user"],
            tokens=tuple(row["tokens"]),
        )
        for row in table.select(_COLUMNS).to_pylist()
    ]

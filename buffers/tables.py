"""What is stored: the Arrow schemas of all tables, and how older ones are read.

Every table carries `headrace.table` and `headrace.schema_version` in its metadata. Columns named
`x_<name>` are extensions: any table may have them, with any Arrow type, and readers keep them.
A text row has `tokens`; a decision row has `actions` instead. T tokens or steps of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from configs.errors import DataError

__all__ = ["EVENTS", "LABELS", "PAIRS", "SCHEMAS", "SCHEMA_VERSION", "SCORES", "TRAJECTORY", "VERSIONS", "upgrade"]

SCHEMA_VERSION = 4
VERSION_KEY = b"headrace.schema_version"

STRING, INT32, INT64, FLOAT32, FLOAT64, BOOL = (
    pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()
)  # fmt: skip
SPANS = pa.list_(pa.struct([("kind", STRING), ("start", INT32), ("end", INT32)]))
SLOT = [("source", STRING), ("epoch", INT32), ("task", INT64), ("sample", INT32), ("attempt", INT32)]


# Later versions may only add nullable columns, so that `upgrade` can fill them.
def _schema(table: str, required: Sequence[tuple[str, Any]], nullable: Sequence[tuple[str, Any]] = ()) -> pa.Schema:
    fields = [pa.field(n, t, nullable=False) for n, t in required] + [pa.field(n, t) for n, t in nullable]
    return pa.schema(fields, metadata={b"headrace.table": table.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode()})


TRAJECTORY = _schema(
    "trajectories",
    [
        *SLOT,
        ("node", INT32),  # ordinal among the trajectories of one attempt
        ("id", STRING),  # source:epoch:task:sample.attempt.node
        ("group", STRING),  # source:epoch:task
        ("model", STRING),
        ("role", STRING),
        ("episode", INT32),
        ("turns", INT32),
        ("tree_id", STRING),
        ("node_id", INT32),
        ("parent_id", INT32),  # -1 at a root
        ("depth", INT32),
        ("fork_token", INT32),  # position at which the branch leaves its parent
        ("user", STRING),
        ("answer", STRING),  # reference answer
        ("origin", STRING),  # policy | expert | synthetic
        ("temperature", FLOAT64),
        ("top_p", FLOAT64),
        ("top_k", INT32),
        ("max_completion_length", INT32),  # tokens
        ("stop", pa.list_(STRING)),
        ("status", STRING),  # finished | truncated | aborted | error
        ("started_at", FLOAT64),  # seconds since the Unix epoch
        ("finished_at", FLOAT64),
        ("oldest_version", INT32),  # version of the oldest sampled token, -1 without any
        ("num_sampled", INT32),
        ("finish_reason", STRING),
        ("metadata", STRING),  # JSON
    ],
    [
        ("prompt", STRING),
        ("completion", STRING),
        ("tokens", pa.list_(INT32)),  # [T]
        ("kinds", pa.list_(pa.uint8())),  # [T] buffers.trajectory.Kind
        ("loss_mask", pa.list_(BOOL)),  # [T]; null: the sampled tokens
        ("logprobs", pa.list_(FLOAT32)),  # [T] nats, of the behaviour policy; 0 where not sampled
        ("version_values", pa.list_(INT32)),  # run lengths of weight versions over the sampled tokens
        ("version_counts", pa.list_(INT32)),
        ("span_kinds", pa.list_(STRING)),
        ("span_starts", pa.list_(INT32)),
        ("span_ends", pa.list_(INT32)),  # exclusive
        ("topk_tokens", pa.list_(INT32)),  # [T * K] row-major
        ("topk_logprobs", pa.list_(FLOAT32)),  # [T * K] nats
        ("observations", pa.large_binary()),  # [T, ...] encoded as the environment section states
        ("actions", pa.list_(FLOAT32)),  # [T * A] row-major; an integer action is stored exactly
        ("rewards", pa.list_(FLOAT32)),  # [T] extrinsic
        ("intrinsic_rewards", pa.list_(FLOAT32)),  # [T]
        ("terminated", pa.list_(BOOL)),  # [T]
        ("truncated", pa.list_(BOOL)),  # [T]
        ("recurrent_state", pa.large_binary()),  # before the first step
        ("captions", pa.list_(STRING)),  # [T]
        ("final_observations", pa.large_binary()),  # [truncated steps, ...] what followed each of them; since version 2
        ("caption_counts", pa.list_(INT32)),  # [T] occurrences in the episode so far; since version 2
        ("last_state", pa.large_binary()),  # recurrent state after the last step; since version 4
    ],
)

EVENTS = _schema(
    "events",
    [
        ("seq", INT64),  # increases over the whole run: run epoch in the upper bits, then 0, 1, 2, ... in the epoch
        ("time", FLOAT64),  # seconds since the Unix epoch
        ("run_epoch", INT32),
        ("lineage", INT32),
        ("event", pa.dictionary(INT32, STRING)),  # buffers.ledger.EventKind
        ("id", STRING),  # trajectory id
        *SLOT,
        ("node", INT32),
        ("reason", STRING),  # why dropped, failed or rolled back
    ],
    [
        ("version", INT32),  # batched, trained: the consuming version, whose weights the update started from
        ("worker", STRING),  # generated: who did it
        ("reward", FLOAT64),  # scored, trained: the total of all components, null: invalid; since version 3
    ],
)

SCORES = _schema(
    "scores",
    [
        ("trajectory_id", STRING),
        ("component", STRING),
        ("version", INT32),  # of the model or rubric that scored
        ("attempt", INT32),
        ("vector", pa.list_(FLOAT64)),
        ("span_values", pa.list_(FLOAT64)),
        ("spans", SPANS),
        ("status", STRING),  # ok | timeout | error | abstained
        ("detail", STRING),
        ("latency_s", FLOAT64),
        ("time", FLOAT64),
    ],
    [
        ("value", FLOAT64),  # null unless ok: an invalid score is never 0
        ("update_version", INT32),  # consuming version of the batch that was scored when it was read; since version 2
    ],
)

PAIRS = _schema(
    "pairs",
    [
        ("left_id", STRING),
        ("right_id", STRING),
        ("label", FLOAT64),  # probability that the left one is better
        ("weight", FLOAT64),
        ("verdict", STRING),  # what the judge wrote
        ("revision", INT32),  # labels change: the highest revision of a pair holds
        ("time", FLOAT64),
    ],
)

VERSIONS = _schema(
    "versions",
    [
        ("lineage", INT32),
        ("version", INT32),
        ("model", STRING),
        ("weights_sha256", STRING),
        ("trained_digest", STRING),  # chained over the ids of every update up to this version
        ("num_trained", INT32),  # trajectories of the update that made this version
        ("time", FLOAT64),
        ("run_epoch", INT32),
    ],
    [("parent", INT32)],  # the version whose weights the update started from; null for the first one
)

LABELS = _schema(
    "labels",
    [
        ("item", pa.list_(STRING)),  # one caption, or a pair of them
        ("status", STRING),  # ok | timeout | error | abstained
        ("prompt", STRING),
        ("reply", STRING),  # what the annotator wrote
        ("detail", STRING),  # why there is no value
        ("annotator", STRING),
        ("latency_s", FLOAT64),
        ("time", FLOAT64),  # seconds since the Unix epoch: when the answer was there
        ("version", INT32),  # of the reward model when it came; the first one that learned from it is later
    ],
    [("value", FLOAT64)],  # null unless ok
)

SCHEMAS = {
    "versions": VERSIONS,
    "events": EVENTS,
    "scores": SCORES,
    "pairs": PAIRS,
    "labels": LABELS,
    "trajectories": TRAJECTORY,
}
"""By the name of the stream; who reads a running run in this order finds what a row refers to."""


def upgrade(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table of this or an older version in the columns of `schema`, extensions behind them.

    Raises:
      DataError: a newer version, a missing required column or an unknown one.
    """
    if table.schema.equals(schema, check_metadata=True):
        return table
    name = schema.metadata[b"headrace.table"].decode()
    version = int((table.schema.metadata or {}).get(VERSION_KEY, b"0"))
    if version > SCHEMA_VERSION:
        raise DataError(f"table {name} has schema version {version}, newer than {SCHEMA_VERSION}; upgrade headrace")
    extensions = [n for n in table.column_names if n.startswith("x_")]
    if unknown := sorted({*table.column_names} - {*schema.names, *extensions}):
        raise DataError(f"table {name} has the unknown column {unknown[0]!r}; name extension columns x_{unknown[0]}")
    columns = [_column(table, name, field) for field in schema] + [table[n] for n in extensions]
    fields = [*schema, *(table.schema.field(n) for n in extensions)]
    return pa.table(columns, schema=pa.schema(fields, metadata=schema.metadata))


def _column(table: pa.Table, name: str, field: pa.Field) -> Any:
    if field.name in table.column_names:
        column = table[field.name]
        return column if column.type == field.type else column.cast(field.type)
    if not field.nullable:
        raise DataError(f"table {name} lacks the column {field.name!r}; it was not written by headrace")
    return pa.nulls(len(table), field.type)

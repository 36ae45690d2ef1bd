"""From trajectory rows to what a reward component is given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa

from buffers.scores import Sample
from buffers.trajectory import Span

__all__ = ["sample_columns", "to_samples"]

COLUMNS = ("id", "group", "prompt", "completion", "answer", "num_sampled", "finish_reason", "user")
SPANS = ("span_kinds", "span_starts", "span_ends")
OPTIONAL = ("tokens", "logprobs", "captions", "observations")
"""Columns, and the words of `needs` that ask for them."""


def sample_columns(needs: frozenset[str]) -> list[str]:
    """Return the columns that `to_samples` reads."""
    return [*COLUMNS, "metadata", *SPANS, *(name for name in OPTIONAL if name in needs)]


def to_samples(table: pa.Table, needs: frozenset[str] = frozenset()) -> list[Sample]:
    """Return one `Sample` per row of a trajectory table, in order. A decision row has no texts and no spans.

    Args:
      needs: optional fields to fill in: "tokens", "logprobs", "captions", "observations".
    """
    texts = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    metadata = [json.loads(text) if text and text != "{}" else {} for text in table["metadata"].to_pylist()]
    spans = zip(*(table[name].to_pylist() for name in SPANS), strict=True)
    optional = zip(*(_optional(table, name, needs) for name in OPTIONAL), strict=False)
    return [_sample(*row) for row in zip(texts, metadata, spans, optional, strict=False)]


def _sample(texts: Sequence[Any], metadata: dict[str, Any], spans: Sequence[Any], optional: Sequence[Any]) -> Sample:
    name, group, prompt, completion, answer, count, finish, user = texts
    tokens, logprobs, captions, observations = optional
    return Sample(
        id=name,
        group=group,
        prompt=prompt or "",
        completion=completion or "",
        answer=answer,
        metadata=metadata,
        num_tokens=count,
        finish_reason=finish,
        spans=tuple(map(Span, *spans)) if spans[0] else (),
        user=user,
        tokens=tuple(tokens or ()),
        logprobs=tuple(logprobs or ()),
        captions=tuple(captions or ()),
        observations=observations or b"",
    )


def _optional(table: pa.Table, name: str, needs: frozenset[str]) -> Iterable[Any]:
    if name not in needs:
        return repeat(None)
    values = table[name].to_pylist()
    if name == "captions":  # a text is its own caption; a fragment without a captioner has none
        texts = table["completion"].to_pylist()
        return [known if text is None else (text,) for known, text in zip(values, texts, strict=True)]
    return values

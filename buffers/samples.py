"""From trajectory rows to what a reward component is given."""

from __future__ import annotations

import json
from itertools import repeat

import pyarrow as pa

from buffers.scores import Sample
from buffers.trajectory import Span

__all__ = ["to_samples"]

COLUMNS = ("id", "group", "prompt", "completion", "answer", "num_sampled", "finish_reason", "user")


def to_samples(table: pa.Table, needs: frozenset[str] = frozenset()) -> list[Sample]:
    """Return one `Sample` per row of a trajectory table, in order.

    Args:
      needs: optional fields to fill in: "tokens".
    """
    texts = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    metadata = [json.loads(text) if text and text != "{}" else {} for text in table["metadata"].to_pylist()]
    spans = zip(*(table[f"span_{name}"].to_pylist() for name in ("kinds", "starts", "ends")), strict=True)
    tokens = map(tuple, table["tokens"].to_pylist()) if "tokens" in needs else repeat(())
    return [
        Sample(
            id=name,
            group=group,
            prompt=prompt,
            completion=completion,
            answer=answer,
            metadata=known,
            num_tokens=count,
            finish_reason=finish,
            spans=tuple(map(Span, *places)),
            user=user,
            tokens=every,
        )
        for (name, group, prompt, completion, answer, count, finish, user), known, places, every in zip(
            texts, metadata, spans, tokens, strict=False
        )
    ]

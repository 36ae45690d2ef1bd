"""Responses to score: trajectories of a run, or a Parquet or JSONL file.

A file has a `completion` in every row, and may have `prompt`, `answer`, `user`, `id`, `group` and `metadata`; any
other key joins the metadata, where verifiers look for tests, schemas and the like. Rows of one group are scored
together; without a `group`, rows with the same prompt are one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from buffers.records.query import query
from buffers.samples import sample_columns, to_samples
from buffers.scores import Sample
from configs.errors import DataError

__all__ = ["chunks", "fingerprint", "read_samples"]

OWN = ("completion", "prompt", "answer", "user")

ORDER = "ORDER BY source, epoch, task, sample, attempt, node"


def read_samples(source: Path, needs: frozenset[str]) -> list[Sample]:
    """Return all responses, members of a group next to each other.

    Args:
      source: a run folder, a `.parquet` or a `.jsonl` file.
      needs: optional fields of `Sample` that the graph reads; only trajectories have them.

    Raises:
      DataError: it is none of these, holds nothing, or a row is not a response; names file, row and remedy.
    """
    if source.is_dir():
        columns = ", ".join(f'"{name}"' for name in sample_columns(needs))
        table = query(source, f"SELECT {columns} FROM trajectories WHERE tokens IS NOT NULL {ORDER}")
        samples = to_samples(table, needs)
    else:
        if missing := sorted(needs):
            raise DataError(f"{source}: a component needs {missing}, which a file does not have; score a run folder")
        samples = [_sample(row, f"{source}, row {n}", n) for n, row in enumerate(_rows(source), 1)]
    if not samples:
        raise DataError(f"{source} holds no responses; it must have a row with a `completion`")
    places = list(enumerate(sample.group for sample in samples))
    first = {group: place for place, group in reversed(places)}
    return sorted(samples, key=lambda sample: first[sample.group])


def chunks(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield consecutive samples, whole groups, at least `size` at a time but for the last."""
    chunk: list[Sample] = []
    for _, members in groupby(samples, key=lambda sample: sample.group):
        chunk += members
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return a digest of what is to be scored."""
    digest = xxhash.xxh3_128()
    for s in samples:
        digest.update(json.dumps([s.id, s.group, s.prompt, s.completion, s.answer, s.metadata], default=str).encode())
    return digest.hexdigest()


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        try:
            yield from pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    elif path.suffix == ".jsonl":
        yield from _lines(path)
    else:
        raise DataError(f"{path} is neither a run folder nor a .parquet or .jsonl file")


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}; write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is {type(row).__name__}; it must be an object with a `completion`")
        yield row


def _sample(row: Mapping[str, Any], where: str, number: int) -> Sample:
    texts: dict[str, Any] = {name: "" if row.get(name) is None else row[name] for name in OWN}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise DataError(f"{where}: {name} is {text!r}; it must be text; quote it")
    if row.get("completion") is None:
        raise DataError(f"{where} has no completion; it has {sorted(row)}; rename the key that holds the response")
    metadata = row.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    others = {k: v for k, v in row.items() if k not in (*OWN, "id", "group", "metadata")}
    name = str(row.get("id") or number)
    return Sample(id=name, group=str(row.get("group") or texts["prompt"] or name), metadata=others | metadata, **texts)

"""Reading task columns from files, with errors that name file, line and column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError, nearest

__all__ = ["Columns", "read_arrow_folder", "read_jsonl", "read_parquet"]


@dataclass(kw_only=True)
class Columns:
    """N tasks as columns of length N."""

    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    metadata: dict[str, list[Any]] = field(default_factory=dict)


def read_jsonl(file: Path, prompt: str, answer: str, metadata: Sequence[str]) -> Columns:
    """Read one JSON object per line.

    Raises:
      DataError: names `file:line`.
    """
    columns = Columns(metadata={name: [] for name in metadata})
    # Bytes are split at newlines only: str.splitlines would also break at U+2028 inside a string.
    for number, line in enumerate(_read_bytes(file).split(b"\n"), 1):
        if line.strip():
            place = f"{file}:{number}"
            row = _parse_row(line, place)
            columns.prompts.append(_text(row, prompt, place))
            columns.answers.append(_text(row, answer, place))
            for name in metadata:
                columns.metadata[name].append(_value(row, name, place))
    return _not_empty(columns, file)


def read_parquet(files: Sequence[Path], prompt: str, answer: str, metadata: Sequence[str]) -> Columns:
    """Read Parquet files of the same columns.

    Raises:
      DataError: names the file and the column.
    """
    tables = []
    for file in files:
        try:
            tables.append((file, pq.ParquetFile(file).read()))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read as Parquet: {error}; write it again") from error
    return _from_tables(tables, prompt, answer, metadata)


def read_arrow_folder(
    root: Path, split: str, prompt: str, answer: str, metadata: Sequence[str]
) -> tuple[list[Path], Columns]:
    """Read the Arrow stream files that `save_to_disk` lists in state.json.

    Returns:
      The files read, and their columns.

    Raises:
      DataError: names the folder, the file or the column.
    """
    folder = _split_folder(root, split)
    state = _read_json(folder / "state.json", "it is no folder of Dataset.save_to_disk; write it with that method")
    files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    tables = []
    for file in files:
        try:
            with pa.memory_map(str(file)) as stream:
                tables.append((file, pa.ipc.open_stream(stream).read_all()))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read as an Arrow stream: {error}; save the dataset again") from error
    if not tables:
        raise DataError(f"{folder}/state.json lists no data files; save the dataset again")
    return files, _from_tables(tables, prompt, answer, metadata)


def _split_folder(root: Path, split: str) -> Path:
    if not (root / "dataset_dict.json").exists():
        return root
    splits = _read_json(root / "dataset_dict.json", "save the dataset again")["splits"]
    if split not in splits:
        raise DataError(f"{root} has no split {split!r}{nearest(split, splits)}")
    return root / split


def _from_tables(tables: list[tuple[Path, pa.Table]], prompt: str, answer: str, metadata: Sequence[str]) -> Columns:
    columns = Columns(metadata={name: [] for name in metadata})
    for file, table in tables:
        columns.prompts += _strings(table, prompt, file)
        columns.answers += _strings(table, answer, file)
        for name in metadata:
            columns.metadata[name] += _json_values(table, name, file)
    return _not_empty(columns, tables[0][0])


def _strings(table: pa.Table, name: str, file: Path) -> list[str]:
    column = _column(table, name, file)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{file}: column {name!r} has type {column.type}; it must hold strings; convert it")
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise DataError(f"{file}: row {row} has no {name!r}; every task needs one; drop the row")
    values: list[str] = column.to_pylist()
    return values


def _json_values(table: pa.Table, name: str, file: Path) -> list[Any]:
    values: list[Any] = _column(table, name, file).to_pylist()
    try:
        json.dumps(values)
    except TypeError as error:
        raise DataError(f"{file}: column {name!r} cannot be metadata: {error}; keep columns of plain values") from error
    return values


def _column(table: pa.Table, name: str, file: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataError(f"{file}: there is no column {name!r}{nearest(name, table.column_names)}")
    return table[name]


def _parse_row(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: malformed JSON, column {error.colno}: {error.msg}; write one object a line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from error
    if not isinstance(row, dict):
        raise DataError(f'{place}: {type(row).__name__} instead of an object; write {{"prompt": ..., "answer": ...}}')
    return row


def _value(row: dict[str, Any], name: str, place: str) -> Any:
    if name not in row:
        raise DataError(f"{place}: there is no key {name!r}{nearest(name, row)}")
    return row[name]


def _text(row: dict[str, Any], name: str, place: str) -> str:
    value = _value(row, name, place)
    if not isinstance(value, str):
        raise DataError(f"{place}: {name!r} is {value!r:.60}; it must be a string; quote it")
    return value


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; give a readable file") from error


def _read_json(file: Path, remedy: str) -> dict[str, Any]:
    if not file.exists():
        raise DataError(f"{file} does not exist; {remedy}")
    return _parse_row(_read_bytes(file), str(file))


def _not_empty(columns: Columns, file: Path) -> Columns:
    if not columns.prompts:
        raise DataError(f"{file} is empty; a task source must hold at least one task; add rows")
    return columns

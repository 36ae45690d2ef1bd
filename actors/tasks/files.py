"""Tasks from files: JSON lines, Parquet, and folders that Hugging Face `datasets` saved.

All are read whole, checked once and then indexed by row; nothing is fetched from a hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from actors.tasks.columns import Columns, read_arrow_folder, read_jsonl, read_parquet
from actors.tasks.source import settings_digest
from buffers.trajectory import Task
from configs.errors import DataError, nearest

__all__ = ["DatasetsFolder", "Jsonl", "Parquet"]


class _Rows:
    """Common ground of the file sources: checked columns in memory, one task per row."""

    listed = True

    def __init__(self, name: str, files: Sequence[Path], columns: Columns, settings: dict[str, object]) -> None:
        self.name = name
        self.fingerprint = settings_digest({"files": [_sha256(file) for file in files], **settings})
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns.prompts)

    def task(self, index: int) -> Task:
        """Return the task of row `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"task {index} of {self.name}; it has {len(self)}")
        return Task(
            source=self.name,
            index=index,
            prompt=self._columns.prompts[index],
            answer=self._columns.answers[index],
            metadata={name: values[index] for name, values in self._columns.metadata.items()},
        )


class Jsonl(_Rows):
    """One JSON object per line; blank lines are skipped."""

    def __init__(
        self,
        path: str,
        prompt_column: str = "prompt",
        answer_column: str = "answer",
        metadata_columns: Sequence[str] = (),
        name: str = "",
    ) -> None:
        """Read and check the file.

        Args:
          metadata_columns: further keys to keep for verifiers.
          name: of the source; the file's stem when empty.

        Raises:
          DataError: missing or empty file, malformed JSON, missing key, or a prompt or answer that
            is not a string; the message names file and line.
        """
        file = _existing(path)
        columns = read_jsonl(file, prompt_column, answer_column, metadata_columns)
        super().__init__(name or file.stem, [file], columns, _settings(prompt_column, answer_column, metadata_columns))


class Parquet(_Rows):
    """A Parquet file, or all `*.parquet` of a folder in the order of their names."""

    def __init__(
        self,
        path: str,
        prompt_column: str = "prompt",
        answer_column: str = "answer",
        metadata_columns: Sequence[str] = (),
        name: str = "",
    ) -> None:
        """Read and check the file or folder; arguments and errors as for `Jsonl`."""
        root = _existing(path)
        files = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
        if not files:
            raise DataError(f"{root} holds no *.parquet; give a Parquet file or a folder of them")
        columns = read_parquet(files, prompt_column, answer_column, metadata_columns)
        super().__init__(name or root.stem, files, columns, _settings(prompt_column, answer_column, metadata_columns))


class DatasetsFolder(_Rows):
    """A folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""

    def __init__(
        self,
        path: str,
        split: str = "train",
        prompt_column: str = "prompt",
        answer_column: str = "answer",
        metadata_columns: Sequence[str] = (),
        name: str = "",
    ) -> None:
        """Read and check the Arrow files; further arguments and errors as for `Jsonl`.

        Args:
          split: which part of a DatasetDict; a folder with a single Dataset ignores it.
        """
        root = _existing(path)
        files, columns = read_arrow_folder(root, split, prompt_column, answer_column, metadata_columns)
        super().__init__(name or root.name, files, columns, _settings(prompt_column, answer_column, metadata_columns))


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        siblings = [entry.name for entry in found.parent.glob(f"*{found.suffix}")]
        raise DataError(f"task file {found} does not exist{nearest(found.name, siblings)}")
    return found


def _settings(prompt: str, answer: str, metadata: Sequence[str]) -> dict[str, object]:
    return {"prompt": prompt, "answer": answer, "metadata": list(metadata)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

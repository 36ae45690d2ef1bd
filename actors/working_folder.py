"""What travels to a cluster with a job: the code of a working directory, nothing that a run or a tool left there."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from configs.errors import DataError

__all__ = ["LEFT_OUT", "pack"]

LEFT_OUT = frozenset({
    ".git", ".venv", "venv", "runs", "build", "dist", "node_modules", "wandb", "__pycache__", ".ipynb_checkpoints",
    ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".env",
})  # fmt: skip
"""What is no code, or a secret (.env), by name, wherever it lies; names that end in .egg-info, too."""
MIB = 1 << 20
LARGEST_SHOWN = 3
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every file in the archive: the same code makes the same archive, which a cluster keeps."""


def pack(folder: Path, archive: Path, max_bytes: int) -> list[Path]:
    """Write the files of a working directory to a zip archive; return their paths in it, sorted.

    Links to files are followed, links to folders are not.

    Raises:
      DataError: together they are larger than `max_bytes`; nothing is written.
    """
    files = sorted(path.relative_to(folder) for path in _files(folder))
    sizes = {path: (folder / path).stat().st_size for path in files}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = sorted(files, key=lambda path: sizes[path], reverse=True)[:LARGEST_SHOWN]
        named = ", ".join(f"{path} ({sizes[path] / MIB:.1f} MiB)" for path in largest)
        raise DataError(
            f"working directory {folder} holds {total / MIB:.1f} MiB in {len(files):,} files; it must be at most "
            f"{max_bytes / MIB:g} MiB, since every node copies it; the largest are {named}: keep data on storage that "
            "all nodes share, or raise --max-mib"
        )
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in files:
            entry = zipfile.ZipInfo(path.as_posix(), EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (folder / path).stat().st_mode << 16
            target.writestr(entry, (folder / path).read_bytes())
    return files


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.endswith(".egg-info")]
        paths = (Path(where, name) for name in names if name not in LEFT_OUT)  # the .git of a worktree is a file
        yield from (path for path in paths if path.is_file())

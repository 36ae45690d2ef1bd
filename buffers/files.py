"""The file operations that durability rests on, in one place so that tests can crash at each of them.

Reading needs no such care and goes straight to the file system.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from configs.errors import DataError

__all__ = ["Files", "OsFiles", "disk", "write_atomically"]


class Files(Protocol):
    """Operations that change a disk; each may raise OSError. Handles are opaque numbers."""

    def create(self, path: Path) -> int:
        """Create a file for writing and return its handle; FileExistsError when it is there."""
        ...

    def write(self, handle: int, data: bytes | memoryview) -> None:
        """Append all of `data`."""
        ...

    def sync(self, handle: int) -> None:
        """Return once everything written through the handle survives a power cut."""
        ...

    def close(self, handle: int) -> None:
        """Release the handle; implies no sync."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically; durable after `sync_folder`."""
        ...

    def remove(self, path: Path) -> None:
        """Delete a file; FileNotFoundError when it is gone."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Return once creations, renames and removals in the folder survive a power cut."""
        ...


class OsFiles:
    """The operating system's files."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def write(self, handle: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a DataError that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error}; free the disk, then resume the run") from error


def write_atomically(path: Path, data: bytes | memoryview, files: Files | None = None) -> None:
    """Replace the contents of `path`: a reader, or a crash, sees the old bytes or the new ones.

    Raises:
      OSError: the disk refused; `path` holds the old bytes or the new ones.
    """
    files = files or OsFiles()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    handle = files.create(temporary)
    try:
        files.write(handle, data)
        files.sync(handle)
    finally:
        files.close(handle)
    files.rename(temporary, path)
    files.sync_folder(path.parent)

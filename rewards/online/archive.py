"""Versions of a reward model on disk, so that a killed learner goes on where it was.

    <folder>/v00000012.state   xxh3 of the rest in 16 hex digits, newline, safetensors

A version is on disk before any scorer is given it: a number is never used for two models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save
from xxhash import xxh3_64_hexdigest

from buffers.files import disk, write_atomically
from configs.errors import Corruption
from rewards.online.tensors import State

__all__ = ["Archive"]


class Archive:
    """The newest versions in a folder."""

    def __init__(self, folder: Path, fence: Callable[[], None] = lambda: None, kept: int | None = 2) -> None:
        """Look into `folder`; `fence` is called before each write and raises where a newer process began.

        Args:
          kept: versions; the older of two is for the day on which the newer one is damaged. None: all.
        """
        self._folder, self._fence, self._kept = folder, fence, kept

    def save(self, version: int, state: State) -> None:
        """Store a version, and let go of old ones.

        Raises:
          DataError: the disk refused.
          StaleEpoch: a newer process began.
        """
        payload = save({name: np.asarray(array, order="C") for name, array in state.items()})
        self._fence()
        path = self._folder / f"v{version:08d}.state"
        with disk(path):
            write_atomically(path, f"{xxh3_64_hexdigest(payload)}\n".encode() + payload)
            for old in self._paths()[: -self._kept] if self._kept else ():
                old.unlink(missing_ok=True)

    def newest(self) -> tuple[int, State] | None:
        """Return the newest undamaged (version, state), or None in an empty folder.

        Where newer ones are damaged, it gets the number behind theirs: they may have scored already.

        Raises:
          Corruption: there are files, and all are damaged.
        """
        paths = self._paths()[::-1]
        highest = int(paths[0].stem[1:]) if paths else 0
        for path in paths:
            if (state := _read(path)) is not None:
                return highest + (path != paths[0]), state
        if paths:
            raise Corruption(f"{paths[0]} and what is beside it do not match their xxh3; remove them to start afresh")
        return None

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("v*.state"))


def _read(path: Path) -> State | None:
    """Return a stored state; None where the file is damaged."""
    checksum, _, payload = path.read_bytes().partition(b"\n")
    return dict(load(payload)) if checksum == xxh3_64_hexdigest(payload).encode() else None

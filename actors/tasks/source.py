"""The contract of a task source, and the digest that identifies one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from buffers.trajectory import Task

__all__ = ["TaskSource", "settings_digest"]


class TaskSource(Protocol):
    """A fixed, indexable set of tasks."""

    @property
    def name(self) -> str:
        """First part of every slot identity."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the contents, or of all settings of a generator."""
        ...

    @property
    def listed(self) -> bool:
        """True when reading every task once is cheap, so that an epoch can be counted exactly."""
        ...

    def __len__(self) -> int:
        """Tasks of one epoch before the split."""
        ...

    def task(self, index: int) -> Task:
        """Return the task at `index` in [0, len); the same task in every process and run.

        Raises:
          IndexError: `index` is out of range.
        """
        ...


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the sha256 of settings, independent of the order of keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

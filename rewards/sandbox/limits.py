"""What one program may use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program, whatever its deadline is."""

    memory_bytes: int = 512 << 20
    """Address space, the interpreter's own included."""
    output_bytes: int = 1 << 20
    """Of its outputs, errors and reply together; beyond it is killed."""
    threads: int = 64
    """Exact where the sandbox has an own uid; else as many more than the user had at the program's start."""
    descriptors: int = 64

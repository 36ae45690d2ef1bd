"""What the sandbox is asked to run, and what becomes of it."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from configs.errors import RunError
from rewards.sandbox.limits import Limits

__all__ = ["End", "Order", "Outcome", "SandboxError"]


class SandboxError(RunError):
    """The sandbox itself failed; says nothing about the program."""


class End(enum.StrEnum):
    """How a program ended."""

    EXITED = "exited"
    DEADLINE = "deadline"
    """Killed at its deadline: of wall time, or of processor time, of which it has as much."""
    FLOOD = "flood"
    """Killed for writing more than it may."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What is left of a program: `output`, `errors` and `reply` are its own words, and not to be trusted."""

    end: End
    code: int
    """Exit status, or minus the signal that ended it."""
    output: bytes
    errors: str
    """The end of it."""
    reply: Any = None
    """What the target returned, or the program wrote in its place; None where there is nothing readable."""
    used_s: float = 0.0
    """Processor seconds."""
    starved_s: float = 0.0
    """Seconds in which its main thread was ready and had no processor."""

    def starved(self, deadline_s: float) -> bool:
        """Return whether it missed its deadline because others (not its threads) had the processor for half of it."""
        return self.end is End.DEADLINE and self.used_s < deadline_s / 2 < self.starved_s


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a zygote is started for."""

    target: str
    """"package.module:function" of one dict that returns what JSON can hold."""
    imports: tuple[str, ...] = ()
    """Modules that are loaded already when a program starts."""
    readable: tuple[str, ...] = ()
    """Files and folders that programs may read, beside the interpreter's."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    scratch_bytes: int = 0
    """Of a folder `/scratch` that is empty at a program's start, and gone at its end; needs bubblewrap."""

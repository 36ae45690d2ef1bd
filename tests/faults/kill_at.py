"""Faults at chosen states: at the n-th call of a named function the process is killed, or something goes wrong."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import MemberLost

__all__ = ["Cut", "half_a_file", "half_a_write", "half_the_weights", "hang", "lose_the_worker", "whole", "with_units"]

HANG_S = 2.0
"""Of a disk, before the process dies: long enough for others to go on."""


def half_a_write(write: Callable[..., Any], files: Any, handle: int, data: bytes) -> None:
    write(files, handle, data[: len(data) // 2])


def half_a_file(save: Callable[..., Any], tensors: Any, path: Path, **arguments: Any) -> None:
    save(tensors, path, **arguments)
    os.truncate(path, path.stat().st_size // 2)


def whole(call: Callable[..., Any], *args: Any, **named: Any) -> None:
    call(*args, **named)


def half_the_weights(fill: Callable[..., Any], views: Any, tensors: dict[str, Any]) -> None:
    half = list(views)[: len(views) // 2]
    fill({name: views[name] for name in half}, {name: tensors[name] for name in half})


def hang(*_: Any) -> None:
    time.sleep(HANG_S)


def always(*_: Any) -> bool:
    return True


def with_units(worker: Any, sequence: int, units: Sequence[Any], *_: Any) -> bool:
    return bool(units)


def lose_the_worker(*_: Any) -> NoReturn:
    raise MemberLost("the test says that this worker is gone")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a run ends; picklable, since the run is another process."""

    target: str
    """"module:function" or "module:Class.method"."""
    call: int = 1
    about: str = ""
    """Count only calls with this in the path that they are about."""
    when: Callable[..., bool] = always
    """Count only calls whose arguments this likes."""
    half: Callable[..., Any] | None = None
    """Takes the place of the fatal call, for example to do half of its work; None does nothing."""
    kills: bool = True
    """False: the process goes on after `half`."""

    def arm(self) -> None:
        """Patch the function in this process."""
        module, _, path = self.target.partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        original, calls = getattr(owner, name), itertools.count(1)

        def counted(*args: Any, **named: Any) -> Any:
            counts = self.about in paths(args) if self.about else self.when(*args)
            if not counts or next(calls) != self.call:
                return original(*args, **named)
            done = self.half(original, *args, **named) if self.half is not None else None
            if self.kills:
                die()
            return done

        setattr(owner, name, counted)


def paths(args: tuple[Any, ...]) -> str:
    """Return the paths among arguments; of an open file its path."""
    found = [os.readlink(f"/proc/self/fd/{a}") for a in args if type(a) is int]
    return " ".join([*found, *(str(a) for a in args if isinstance(a, str | Path))])


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL cannot be caught")

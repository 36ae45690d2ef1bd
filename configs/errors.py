"""Every error that headrace raises on purpose.

RunError                 something a person can act on; never a traceback on the terminal
├── ConfigError          a setting is wrong: correct the key it names          (exit code 2)
├── DataError            a task file, model folder or run folder is unusable   (exit code 2)
│   └── NoRoom           the cluster cannot hold what is asked for: add nodes, or ask for less
├── MemberLost           an actor died: the supervisor restarts it
├── DeadlineExceeded     a wait ran out: the message names what was awaited, and whose it is
├── StaleEpoch           a writer of an older epoch was fenced off: stop it
└── Corruption           stored bytes fail their checksum: the message names file and offset
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "Corruption",
    "DataError",
    "DeadlineExceeded",
    "MemberLost",
    "NoRoom",
    "RunError",
    "StaleEpoch",
    "nearest",
    "one_of",
    "require",
]


class RunError(Exception):
    """Base of all errors that name a place, a value, a rule and a remedy."""


class ConfigError(RunError):
    """A configuration value breaks a rule."""


class DataError(RunError):
    """A file or folder given by the user cannot be used."""


class NoRoom(DataError):
    """The cluster cannot hold what is asked for, even if it held nothing else."""


class MemberLost(RunError):
    """The process behind a handle is gone; the call may or may not have executed."""


class DeadlineExceeded(RunError):
    """A wait with a deadline ran out."""


class StaleEpoch(RunError):
    """This process belongs to an older epoch of the run and may not write any more."""


class Corruption(RunError):
    """Stored bytes do not match their checksum."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'? known: a, b" for an unknown `word`."""
    names = sorted(known)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"; did you mean {match[0]!r}?" if match else ";"
    return f"{hint} known: {', '.join(names)}"


def require(condition: bool, key: str, value: object, rule: str, remedy: str) -> None:
    """Raise the ConfigError that names a key, its value, the rule it breaks and what to do."""
    if not condition:
        raise ConfigError(f"{key} is {value!r}; it must {rule}; {remedy}")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise the ConfigError of a value that is none of those allowed."""
    require(value in allowed, key, value, f"be one of {', '.join(allowed)}", "choose one of them")

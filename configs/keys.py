"""Which keys exist, and what to say of one that does not."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from configs.errors import ConfigError
from configs.foreign import translate
from configs.schema import RunConfig

__all__ = ["check_keys", "child", "expected", "fields", "known_keys"]

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def fields(section: Any) -> dict[str, Any]:
    """Return name -> type of the settings of a section; empty for anything else than a section."""
    return typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}


def child(kind: Any, key: str) -> Any:
    """Return the type of the setting `key` inside a value of type `kind`; None where anything goes."""
    if dataclasses.is_dataclass(kind):
        return fields(kind).get(key)
    return typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None


def expected(path: str) -> str | None:
    """Return in words what the setting at a dotted path must be; None where no word fits."""
    kind: Any = RunConfig
    for key in path.split("."):
        kind = child(kind, key)
    options = [WORDS[option] for option in (kind, *typing.get_args(kind)) if option in WORDS]
    return " or ".join(options) or None


@functools.cache
def known_keys() -> tuple[str, ...]:
    """Return the dotted path of every setting; `*` stands for a name that the user chooses."""
    return tuple(_paths(RunConfig, ""))


def check_keys(tree: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Refuse unknown keys, and plain values where a section belongs.

    Args:
      tree: nested settings of one file or override.
      places: dotted key -> "file:line".

    Raises:
      ConfigError: names the place, the key, and ours or the closest one.
    """
    _check(tree, RunConfig, "", places)


def _check(tree: Mapping[str, Any], kind: Any, prefix: str, places: Mapping[str, str]) -> None:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        place = f"{places[path]}: " if path in places else ""
        if dataclasses.is_dataclass(kind) and key not in fields(kind):
            raise ConfigError(f"{place}{path} is not a setting; {_instead(path, value)}")
        if value == "???":
            raise ConfigError(f"{place}{path} is '???'; it must have a value; set it")
        inner = child(kind, key)
        if isinstance(value, Mapping):
            _check(value, inner, f"{path}.", places)
        elif dataclasses.is_dataclass(inner) or typing.get_origin(inner) is dict:
            raise ConfigError(f"{place}{path} is {value!r}; it must be a section; {_remedy(path, inner)}")


def _remedy(path: str, kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return f"set keys inside it, for example {path}.{next(iter(fields(kind)))}, or remove it"
    if dataclasses.is_dataclass(typing.get_args(kind)[1]):
        return f"give each entry a name of your own, for example {path}.mine"
    return f"write {path}: {{target: ...}}"


def _instead(path: str, value: Any) -> str:
    if ours := _translated(path, value):
        return ours
    section, _, leaf = path.rpartition(".")
    same = [known for known in known_keys() if known.rpartition(".")[2] == leaf and "*" not in known]
    if same:
        return f"did you mean {' or '.join(repr(known) for known in same)}?"
    return _closest(section, leaf)


def _translated(path: str, value: Any) -> str | None:
    """Return our name of a foreign key, or of the first foreign key inside a foreign section."""
    if ours := translate(path):
        return f"here {path} is called {ours}"
    inside = value.items() if isinstance(value, Mapping) else ()
    return next((found for key, item in inside if (found := _translated(f"{path}.{key}", item))), None)


def _closest(section: str, leaf: str) -> str:
    leaves = {known.rpartition(".")[2]: known for known in reversed(known_keys())}
    siblings = {name: f"{section}.{name}".lstrip(".") for name in _siblings(section)}
    # A near match anywhere, then a fair one; of equals, a misspelt key of the right section is likelier.
    for cutoff, names in itertools.product((0.85, 0.6), (siblings, leaves)):
        if match := difflib.get_close_matches(leaf, names, n=1, cutoff=cutoff):
            return f"did you mean {names[match[0]]!r}?"
    return f"known in {section or 'a configuration'}: {', '.join(sorted(siblings))}"


def _siblings(section: str) -> list[str]:
    kind: Any = RunConfig
    for key in section.split(".") if section else ():
        kind = child(kind, key)
    return list(fields(kind))


def _paths(kind: Any, prefix: str) -> Iterator[str]:
    for key, inner in fields(kind).items():
        yield f"{prefix}{key}"
        yield from _paths(inner, f"{prefix}{key}.")
        if typing.get_origin(inner) is dict:
            yield from _paths(typing.get_args(inner)[1], f"{prefix}{key}.*.")

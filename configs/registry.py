"""Components by name: a visible table `name -> "module:Class"`, imported on first use.

A section of YAML is either a bare name or a mapping with a `target`; the remaining keys are the
constructor's arguments. `target` is a name of the table or any importable "package.module:Class",
so that users add components without editing this repository.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError, nearest

__all__ = ["Deferred", "construct", "resolve", "split"]

Table = Mapping[str, str]
Section = str | Mapping[str, Any]


def split(section: Section, where: str) -> tuple[str, dict[str, Any]]:
    """Return (target, arguments) of a component section.

    Raises:
      ConfigError: the section has no `target`.
    """
    if isinstance(section, str):
        return section, {}
    arguments = dict(section)
    target = arguments.pop("target", None)
    if not isinstance(target, str):
        raise ConfigError(f"{where}.target is missing; name a component, for example `target: ...`")
    return target, arguments


def resolve(table: Table, target: str, where: str) -> Any:
    """Import and return the class or function that `target` names.

    Raises:
      ConfigError: the name is in no table and is not importable.
    """
    path = table.get(target, target)
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ConfigError(f"{where}.target is {target!r}, which is not known{nearest(target, table)}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}.target is {target!r}, which cannot be imported: {error}") from error


def construct(table: Table, section: Section, where: str, /, **dependencies: Any) -> Any:
    """Build the component of a section; `dependencies` fill parameters of the same names.

    A dependency that the constructor does not ask for is left out, so that components declare
    what they need by naming it.

    Raises:
      ConfigError: unknown target, unknown argument, missing argument, or the component's own
        constructor refused a value.
    """
    target, arguments = split(section, where)
    factory = resolve(table, target, where)
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    settable = set(parameters) - set(dependencies)
    for key in arguments:
        if key not in settable and not open_ended:
            raise ConfigError(f"{where}.{key} is not an argument of {target!r}{nearest(key, settable)}")
    wanted = {k: v for k, v in dependencies.items() if k in parameters}
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in arguments
        and p.name not in wanted
    ]
    if missing:
        raise ConfigError(f"{where} ({target!r}) lacks {', '.join(missing)}; add it to the section")
    try:
        return factory(**arguments, **wanted)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} ({target!r}): {error}") from error


@dataclass(frozen=True)
class Deferred:
    """A call to be made in another process, by name; this process imports nothing for it."""

    path: str
    """module:function"""
    arguments: tuple[Any, ...] = ()

    def __call__(self, *more: Any) -> Any:
        """Import the function and call it with the arguments held here, then `more`."""
        return resolve({}, self.path, "deferred call")(*self.arguments, *more)

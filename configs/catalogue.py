"""`launch.py list`: every component of every table, and the presets, one line each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence

from configs.errors import ConfigError, nearest
from configs.load import presets
from configs.registry import resolve

__all__ = ["show_catalogue"]


def show_catalogue(tables: Mapping[str, str], kinds: Sequence[str], *, as_json: bool) -> int:
    """Print name and first docstring line of the components of some kinds; all kinds if none is named.

    Args:
      tables: kind -> "module:TABLE".

    Raises:
      ConfigError: there is no such kind.
    """
    known = [*tables, "presets"]
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"list {kind!r} is no kind of component{nearest(kind, known)}")
    found = {kind: _rows(tables, kind) for kind in kinds or known}
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    for kind, rows in found.items():
        print(kind)
        for name, line in rows.items():
            print(f"  {name:<22}{line}")
    return 0


def _rows(tables: Mapping[str, str], kind: str) -> dict[str, str]:
    if kind == "presets":
        return dict(presets())
    table = resolve({}, tables[kind], kind)
    return {name: _first_line(resolve(table, name, kind)) for name in table}


def _first_line(component: object) -> str:
    return (inspect.getdoc(component) or "").split("\n")[0]

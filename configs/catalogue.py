"""`launch.py list`: every component of every table, the presets and the sweeps, one line each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence

from configs.errors import ConfigError, nearest
from configs.load import presets
from configs.registry import resolve

__all__ = ["TABLES", "show_catalogue"]

TABLES = {
    "tasks": "actors.tasks:TASKS",
    "programs": "actors.programs:PROGRAMS",
    "environments": "actors.environments:ENVIRONMENTS",
    "captions": "actors.environments:CAPTIONS",
    "engines": "actors.engines:ENGINES",
    "rewards": "rewards:REWARDS",
    "annotators": "rewards.intrinsic.annotators:ANNOTATORS",
    "combines": "rewards:COMBINES",
    "intrinsics": "rewards.intrinsic:INTRINSICS",
    "samplers": "buffers.samplers:SAMPLERS",
    "filters": "buffers.filters:FILTERS",
    "advantages": "learners.advantages:ADVANTAGES",
    "losses": "learners.losses:LOSSES",
    "policies": "learners.models.decision:POLICIES",
    "cores": "learners.models.decision.cores:CORES",
    "returns": "learners.returns:RETURNS",
    "publishers": "learners.publish:PUBLISHERS",
}
"""Kind of component -> "module:TABLE"; imported when they are listed."""
YAML_FILES = {"presets": ".", "sweeps": "sweeps"}
"""Kind of file -> its folder beside this module."""


def show_catalogue(words: Sequence[str]) -> int:
    """Show components and presets, one line each: `launch.py list [KIND ...] [--json]`.

    Raises:
      ConfigError: there is no such kind.
    """
    kinds = [word for word in words if word != "--json"]
    known = [*TABLES, *YAML_FILES]
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"list {kind!r} is no kind of component{nearest(kind, known)}")
    found = {kind: _rows(kind) for kind in kinds or known}
    if "--json" in words:
        print(json.dumps(found, indent=1))
        return 0
    for kind, rows in found.items():
        print(kind)
        for name, line in rows.items():
            print(f"  {name:<22}{line}")
    return 0


def _rows(kind: str) -> dict[str, str]:
    if kind in YAML_FILES:
        return dict(presets(YAML_FILES[kind]))
    table = resolve({}, TABLES[kind], kind)
    return {name: _first_line(resolve(table, name, kind)) for name in table}


def _first_line(component: object) -> str:
    return (inspect.getdoc(component) or "").split("\n")[0]

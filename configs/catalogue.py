"""`launch.py list`: every component of every table, the presets and the sweeps, one line each.

A kind that is asked for by name also shows where its components come from and how they are written in YAML.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from configs.errors import ConfigError, nearest
from configs.load import presets
from configs.registry import resolve

__all__ = ["TABLES", "Entry", "read_entry", "show_catalogue"]

TABLES = {
    "tasks": "actors.tasks:TASKS",
    "programs": "actors.programs:PROGRAMS",
    "environments": "actors.environments:ENVIRONMENTS",
    "captions": "actors.environments:CAPTIONS",
    "engines": "actors.engines:ENGINES",
    "rewards": "rewards:REWARDS",
    "annotators": "rewards.intrinsic.annotators:ANNOTATORS",
    "combines": "rewards:COMBINES",
    "schedules": "rewards.schedules:SCHEDULES",
    "transforms": "rewards.transforms:TRANSFORMS",
    "intrinsics": "rewards.intrinsic:INTRINSICS",
    "samplers": "buffers.samplers:SAMPLERS",
    "filters": "buffers.filters:FILTERS",
    "advantages": "learners.advantages:ADVANTAGES",
    "losses": "learners.losses:LOSSES",
    "backends": "learners.backends:BACKENDS",
    "policies": "learners.models.decision:POLICIES",
    "cores": "learners.models.decision.cores:CORES",
    "returns": "learners.returns:RETURNS",
    "publishers": "learners.publish:PUBLISHERS",
}
"""Kind of component -> "module:TABLE"; imported when they are listed."""
YAML_FILES = {"presets": ".", "sweeps": "sweeps"}
"""Kind of file -> its folder beside this module."""


def show_catalogue(words: Sequence[str]) -> int:
    """Show components and presets; a named kind with sources and YAML: `launch.py list [KIND ...] [--json]`.

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
        print(json.dumps({kind: {n: e._asdict() for n, e in rows.items()} for kind, rows in found.items()}, indent=1))
        return 0
    for kind, rows in found.items():
        print(kind)
        for name, entry in rows.items():
            print(f"  {name:<22}{entry.line}")
            if kinds:
                print(entry.details, end="")
    return 0


class Entry(NamedTuple):
    """What the docstring of a component says."""

    line: str
    yaml: str = ""
    """Its section, as written in a configuration."""
    source: str = ""
    """Paper or program that it follows."""

    @property
    def details(self) -> str:
        """Return YAML and source, indented, one below the other."""
        lines = [*self.yaml.splitlines(), *([f"Source: {self.source}"] if self.source else [])]
        return "".join(f"      {line}\n" for line in lines)


def read_entry(component: object) -> Entry:
    """Return what a component's docstring says: its first line, its indented block and its `Source:`."""
    text = inspect.getdoc(component) or ""
    source = text.partition("Source:")[2].partition("\n\n")[0]
    block = next((part for part in text.split("\n\n") if part.startswith("    ")), "")
    return Entry(text.partition("\n")[0], textwrap.dedent(block), " ".join(source.split()))


def _rows(kind: str) -> dict[str, Entry]:
    if kind in YAML_FILES:
        return {name: Entry(line) for name, line in presets(YAML_FILES[kind])}
    table = resolve({}, TABLES[kind], kind)
    return {name: read_entry(resolve(table, name, kind)) for name in table}

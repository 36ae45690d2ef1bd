"""A sweep: one preset over seeds and a grid of settings, as a list of runs.

base: ../quickstart.yaml      # a preset, relative to the sweep's file
seeds: [0, 1, 2]
grid: {max_staleness: [0, 4]}  # dotted key -> values; every combination is run with every seed
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from configs.errors import ConfigError, nearest, require
from configs.load import load_config
from configs.schema import RunConfig

__all__ = ["Planned", "Sweep", "load_sweep"]

KEYS = ("base", "seeds", "grid")


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    words: tuple[str, ...]
    """Arguments of `launch.py run`."""
    config: RunConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.runs_folder) / self.config.name


@dataclass(kw_only=True)
class Sweep:
    """What a sweep's file says."""

    base: Path
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    grid: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        are_seeds = isinstance(self.seeds, list) and all(type(seed) is int for seed in self.seeds)
        require(are_seeds and bool(self.seeds), "seeds", self.seeds, "be a list of whole numbers", "try [0, 1, 2]")
        require(len({*self.seeds}) == len(self.seeds), "seeds", self.seeds, "differ", "leave the repeated one out")
        require(isinstance(self.grid, dict), "grid", self.grid, "map keys to values", "try {max_staleness: [0, 4]}")
        for key, values in self.grid.items():
            require(
                isinstance(values, list) and bool(values), f"grid.{key}", values, "be a list of values", "write [1, 2]"
            )
            require(key not in ("name", "seed"), f"grid.{key}", values, "be another setting", "the sweep sets it")

    def plan(self, overrides: Sequence[str]) -> list[Planned]:
        """Return the runs, seeds innermost; all are named and checked before any is started.

        Raises:
          ConfigError: a run's configuration is refused.
        """
        stem = load_config([self.base], overrides).name
        cells = itertools.product(*([(key, value) for value in values] for key, values in self.grid.items()))
        return [self._run(stem, cell, seed, overrides) for cell in cells for seed in self.seeds]

    def _run(self, stem: str, cell: Sequence[tuple[str, Any]], seed: int, overrides: Sequence[str]) -> Planned:
        name = "-".join([stem, *(f"{key.rpartition('.')[2]}-{_plain(value)}" for key, value in cell), f"seed{seed}"])
        settings = [*overrides, *(f"{key}={_written(value)}" for key, value in cell), f"name={name}", f"seed={seed}"]
        return Planned((str(self.base), *settings), load_config([self.base], settings))


def load_sweep(path: Path, seeds: list[int] | None = None) -> Sweep:
    """Return the sweep of a file, or of a run's preset, which is swept over seeds alone.

    Args:
      seeds: replace those of the file.

    Raises:
      ConfigError: missing or malformed file, unknown key or refused value; says which.
    """
    content = _read(path)
    wanted: dict[str, Any] = {} if seeds is None else {"seeds": seeds}
    if "base" not in content:
        if "grid" in content or "seeds" in content:
            raise ConfigError(f"{path} has no base; name the preset to sweep, such as base: ../quickstart.yaml")
        return Sweep(base=path, **wanted)
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"{path}: {key} is no key of a sweep{nearest(str(key), KEYS)}; settings go into its base")
    try:
        return Sweep(**{**content, "base": path.parent / str(content["base"]), **wanted})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a sweep, or a preset") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: malformed YAML: {str(error).splitlines()[0]}; correct the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the file must be a mapping, such as `base: ../quickstart.yaml`")
    return content


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> str:
    """Return a value as a part of a folder's name."""
    text = value.get("target", value) if isinstance(value, dict) else value
    return re.sub(r"[^\w.+-]+", "_", str(text)).strip("_")

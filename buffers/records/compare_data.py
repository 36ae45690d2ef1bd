"""What a comparison is made of: runs in groups that differ in nothing but the seed, figures, and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from buffers.records.intervals import Interval, interval
from buffers.records.report_data import Run, load_run
from buffers.run_folder import read_run
from configs.errors import DataError
from configs.load import load_config

__all__ = ["FIGURES", "Figure", "Group", "differences", "flatten", "load_groups", "settings"]

Settings = Mapping[str, Any]

ENDED = ("finished", "stopped")
ASIDE = ("name", "seed", "runs_folder", "resume")
"""Settings that make no other experiment; nor does the section `logging`."""
SEED = re.compile(r"[-_.]?seed[-_]?\d+$")  # of a run's name
LAST = 25  # the final reward is the mean over the last 1/25 of the run, as curves are smoothed


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    label: str
    path: tuple[str, ...]
    """Keys in summary.json."""
    unit: str = ""
    scale: float = 1.0
    decimals: int = 0

    def text(self, found: Interval | None) -> str:
        """Return mean and half width in the figure's unit; "-" where the runs have no such number."""
        if found is None:
            return "-"
        half = "" if found.half is None else f" ± {self.scale * found.half:,.{self.decimals}f}"
        return f"{self.scale * found.mean:,.{self.decimals}f}{half} {self.unit}".rstrip()


FINAL_REWARD = Figure("reward at the end", (), decimals=3)
FIGURES = (
    Figure("accuracy before", ("eval", "before", "accuracy"), "%", 100, 1),
    Figure("accuracy after", ("eval", "after", "accuracy"), "%", 100, 1),
    Figure("return before", ("eval", "before", "return_mean"), "", 1, 2),
    Figure("return after", ("eval", "after", "return_mean"), "", 1, 2),
    Figure("success before", ("eval", "before", "success_rate"), "%", 100, 1),
    Figure("success after", ("eval", "after", "success_rate"), "%", 100, 1),
    FINAL_REWARD,
    Figure("frames/s", ("env_frames_per_s",)),
    Figure("frames", ("env_frames",)),
    Figure("labels", ("intrinsic", "labels")),
    Figure("captions with a label", ("intrinsic", "coverage"), "%", 100),
    Figure("samples/s", ("samples_per_s",)),
    Figure("wall time", ("wall_s",), "s"),
    Figure("staleness mean", ("staleness", "mean"), "", 1, 2),
    Figure("staleness max", ("staleness", "max"), "", 1, 1),
    Figure("learner idle", ("idle", "learner"), "%", 100),
    Figure("rollout idle", ("idle", "rollout"), "%", 100),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seed and name."""

    label: str
    runs: tuple[Run, ...]
    settings: Settings
    """Dotted key -> value, without the seed."""

    @property
    def title(self) -> str:
        """The label, and how many runs are behind it."""
        return self.label if len(self.runs) == 1 else f"{self.label} (n={len(self.runs)})"

    def figure(self, figure: Figure) -> Interval | None:
        """Return the figure over the runs; None where one of them lacks it."""
        is_reward = figure is FINAL_REWARD
        values: list[Any] = [_final_reward(run) if is_reward else run.get(*figure.path) for run in self.runs]
        return None if any(value is None for value in values) else interval([float(value) for value in values])


def load_groups(folders: Sequence[Path]) -> list[Group]:
    """Return the runs of some folders, grouped, in the order of their first runs.

    Raises:
      DataError: one is no run folder, has not ended well, or is named twice.
    """
    found: dict[str, tuple[Settings, list[Run]]] = {}
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise DataError(f"{folder} is named twice; a run is compared with other runs")
        run, plan = _load(folder), settings(folder)
        found.setdefault(repr(plan), (plan, []))[1].append(run)
    labels = _labels([[run.name for run in runs] for _, runs in found.values()])
    return [Group(label, tuple(runs), plan) for label, (plan, runs) in zip(labels, found.values(), strict=True)]


def settings(folder: Path) -> Settings:
    """Return the settings of a run folder that make the experiment, by dotted key; today's defaults fill gaps.

    Raises:
      ConfigError: config.yaml is missing, or has a key that is no setting any more.
    """
    return flatten(asdict(load_config([folder / "config.yaml"], [])))


def flatten(config: Mapping[str, Any]) -> Settings:
    """Return dotted key -> value of all settings but those that make no other experiment."""
    flat = {key: value for name, section in config.items() for key, value in _leaves(name, section)}
    return {key: value for key, value in flat.items() if key not in ASIDE and not key.startswith("logging.")}


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return dotted key -> value in each group, for the settings in which groups differ."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    values = {key: [group.settings.get(key) for group in groups] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _load(folder: Path) -> Run:
    status = read_run(folder).get("status")
    run = load_run(folder)
    if status not in ENDED or not run.summary:
        remedy = f"end it with `launch.py run {folder}/config.yaml resume=true`"
        raise DataError(f"{folder} has status {status!r}; compared are runs that finished or were stopped; {remedy}")
    return run


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        return [(path, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{path}.{key}", inner)]


def _labels(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the common name of each group without its seeds; all names where there is none, or two groups share it."""
    stems = [{SEED.sub("", name) for name in group} if len(group) > 1 else set(group) for group in names]
    common = [stem.pop() if len(stem) == 1 else "" for stem in stems]
    return [
        stem if stem and common.count(stem) == 1 else ", ".join(group)
        for stem, group in zip(common, names, strict=True)
    ]


def _final_reward(run: Run) -> float | None:
    values = run.series.get("reward/mean", (np.empty(0), np.empty(0)))[1]
    values = values[np.isfinite(values)][-(1 + len(values) // LAST) :]
    return float(values.mean()) if len(values) else None

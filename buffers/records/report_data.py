"""What a report is made of: the contents of a run folder, and the advice that follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from buffers.records.alarm_log import read_alarms
from buffers.records.metric_names import METRICS, matching
from buffers.records.metrics import read_metrics
from buffers.records.query import query
from configs.errors import DataError

__all__ = ["Floats", "Run", "advisories", "load_run", "yaml_blocks"]

Floats = NDArray[np.float64]
LOST = """
SELECT event, reason, count(*) AS count FROM events WHERE event IN ('dropped', 'failed', 'rolled_back')
GROUP BY event, reason ORDER BY count DESC, event, reason
"""
NONFINITE = "lower learner.learning_rate or learner.max_grad_norm, and use model.dtype=float32"


@dataclass(frozen=True)
class Run:
    """What a run folder says of its run."""

    name: str
    config: Mapping[str, Any]
    """Resolved configuration; empty when there is none."""
    summary: Mapping[str, Any]
    """Final numbers; empty while the run goes on."""
    series: Mapping[str, tuple[Floats, Floats]]
    """metric name -> updates [N], values [N]."""
    reasons: Sequence[tuple[str, str, int]] = ()
    """(event, reason, count) of the trajectories that were dropped, failed or rolled back, largest first."""
    started: float | None = None
    """Unix seconds."""
    alarms: Sequence[Mapping[str, Any]] = ()
    """Those that were raised or cleared, as `read_alarms` returns them."""

    def get(self, *path: str) -> Any:
        """Return a number or text of the summary, None where it is missing."""
        value: Any = self.summary
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def load_run(folder: Path) -> Run:
    """Return what the run folder holds.

    Raises:
      DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name a run folder, for example runs/first-run")
    config, summary, start = folder / "config.yaml", folder / "summary.json", folder / "run.json"
    settings = OmegaConf.to_container(OmegaConf.load(config)) if config.exists() else {}
    numbers = json.loads(summary.read_text()) if summary.exists() else {}
    started = json.loads(start.read_text()).get("started") if start.exists() else None
    assert isinstance(settings, dict)
    named = {str(key): value for key, value in settings.items()}
    return Run(folder.name, named, numbers, _series(folder), _reasons(folder), started, read_alarms(folder))


def _series(folder: Path) -> dict[str, tuple[Floats, Floats]]:
    if not (folder / "metrics").is_dir():
        return {}
    rows = read_metrics(folder)
    names, updates, values = (np.asarray(rows[c].to_numpy()) for c in ("name", "update", "value"))
    return {str(n): (updates[names == n].astype(np.float64), values[names == n]) for n in np.unique(names.astype(str))}


def yaml_blocks(config: Mapping[str, Any]) -> list[str]:
    """Return a configuration as YAML: one block of plain values, then one for each section."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    blocks = [plain, *({key: value} for key, value in config.items() if isinstance(value, Mapping))]
    return [OmegaConf.to_yaml(OmegaConf.create(block)) for block in blocks if block]


def _reasons(folder: Path) -> list[tuple[str, str, int]]:
    if not all((folder / part).is_dir() for part in ("ledger", "trajectories", "metrics")):
        return []
    rows = query(folder, LOST).to_pylist()
    return [(row["event"], row["reason"], row["count"]) for row in rows]


def advisories(run: Run) -> list[str]:
    """Return what is out of its healthy range: value, threshold and the key to change.

    Judged is the mean of the last third of the finite values of each bounded metric.
    """
    found = []
    for pattern, metric in METRICS.items():
        for name, placeholder in matching(pattern, run.series).items():
            values = run.series[name][1]
            bad = int((~np.isfinite(values)).sum())
            recent = values[np.isfinite(values)][-max(1, len(values) // 3) :]
            level = float(recent.mean()) if len(recent) else float("nan")
            remedy = metric.remedy.replace("<component>", placeholder)
            if metric.high is not None and level > metric.high:
                found.append(f"{name} is {level:.3g}, above {metric.high:g}: {remedy}.")
            if metric.low is not None and level < metric.low:
                found.append(f"{name} is {level:.3g}, below {metric.low:g}: {remedy}.")
            if bad:
                found.append(f"{name} was not finite {bad} times in {len(values)}: {NONFINITE}.")
    return found

"""Runs that are played to their end, and reduced to what timing must not change.

For every version its hash, and for every trained slot what was sampled, its log-probabilities and
version stamps. Then two runs either agree, or the difference is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import launch
from buffers.records.audit import audit
from buffers.records.query import query
from buffers.run_folder import RunFolder
from configs.load import load_config
from configs.recorded import record_config
from configs.schema import RunConfig

SMOKE = Path(launch.__file__).parent / "configs" / "smoke.yaml"

TRAINED = """
SELECT e.version AS consumed, t.source, t.epoch, t.task, t.sample, tokens, logprobs, version_values, version_counts
FROM events e JOIN trajectories t USING (id) WHERE e.event = 'trained'
ORDER BY ALL
"""

DECISIONS = """
SELECT e.version AS consumed, t.source, t.epoch, t.task, observations, actions, logprobs, rewards, terminated,
truncated, captions, recurrent_state, version_values, version_counts
FROM events e JOIN trajectories t USING (id) WHERE e.event = 'trained'
ORDER BY ALL
"""


class SilentView:
    """Remembers warnings and alarms only."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.alarmed: list[dict[str, str]] = []

    def phase(self, text: str) -> None: ...
    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...
    def update(self, *_: Any) -> None: ...
    def evaluation(self, update: int, accuracy: float) -> None: ...
    def summary(self, summary: Any) -> None: ...
    def close(self) -> None: ...

    def alarms(self, active: Mapping[str, str]) -> None:
        self.alarmed.append(dict(active))

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def configure(folder: Path, name: str, *words: str, preset: Path) -> RunConfig:
    common = [
        f"name={name}", f"runs_folder={folder}", "updates=4", "max_staleness=0", "eval.tasks=0",
        "environment.eval_episodes=0", "logging.report=false",
        "logging.tensorboard=false", "cluster.address=local",
    ]  # fmt: skip
    return load_config([preset], [*common, *words])


def play(
    folder: Path, name: str, *words: str, preset: Path = SMOKE, disturb: Any = None, ends: str = "finished"
) -> dict[str, list[dict[str, Any]]]:
    """Run to the end, check the books, and return what timing must not change."""
    config = configure(folder, name, *words, preset=preset)
    path = folder / name
    with RunFolder.create(path) as run_folder:
        record_config(config, path)

        async def conduct() -> dict[str, Any]:
            disturbing = asyncio.create_task(disturb(path)) if disturb else None
            summary = await launch.conduct(config, run_folder, SilentView(), 0.0)
            if disturbing is not None:
                await disturbing
            return summary

        assert asyncio.run(conduct())["status"] == ends
    books = audit(path)
    assert books.balanced, books.problems
    hashes = query(path, "SELECT version, weights_sha256 FROM versions ORDER BY version").to_pylist()
    return {"weights": hashes, "trained": query(path, DECISIONS if config.is_decision else TRAINED).to_pylist()}


def differences(one: dict[str, Sequence[Any]], other: dict[str, Sequence[Any]]) -> list[str]:
    """Name what two runs do not share."""
    found = []
    for key, rows in one.items():
        if len(rows) != len(other[key]):
            found.append(f"{key}: {len(rows)} rows against {len(other[key])}")
        found += [f"{key}: {a} against {b}" for a, b in zip(rows, other[key], strict=False) if a != b]
    return found

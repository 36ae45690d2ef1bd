"""How members that serve a model are made: what the composition root hands to whoever starts pools."""

from __future__ import annotations

from pathlib import Path

from configs.registry import Deferred
from configs.schema import RunConfig

__all__ = ["server"]


def server(config: RunConfig, name: str) -> Deferred:
    """Say how one member of the pool `name` of `rewards.models` is made."""
    logs = Path(config.runs_folder) / config.name / "logs"
    return Deferred("actors.serving.member:build", (config.rewards.models[name], logs, name))

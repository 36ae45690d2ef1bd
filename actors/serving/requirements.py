"""What the models that a run serves need, for `launch.py check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from actors.serving import CHECKS
from configs.errors import require
from configs.language import ModelConfig
from configs.model_pool import ModelPoolConfig
from configs.plan import Requirement
from configs.registry import resolve
from configs.schema import RunConfig
from learners.models.load import check_model_folder

__all__ = ["requirements"]


def requirements(config: RunConfig) -> Iterator[Requirement]:
    """Look at every model folder, and whether its engine is there and takes its options.

    Raises:
      ConfigError, DataError: a folder or an option cannot be used.
    """
    for name, section in config.rewards.models.items():
        _check(name, section)
        size = f"{section.replicas} member(s) x {section.slots} requests of at most {section.context_length} tokens"
        yield Requirement(subject="model", text=f"{name}: {section.path} by {section.engine}, {size}")


def _check(name: str, section: ModelPoolConfig) -> None:
    key = f"rewards.models.{name}.path"
    require(Path(section.path).is_dir(), key, section.path, "be a folder", "save the model there")
    if section.engine in CHECKS:
        resolve(CHECKS, section.engine, f"rewards.models.{name}.engine")(section, name)
    model = ModelConfig(path=section.path, trust_remote_code=section.trust_remote_code)
    check_model_folder(model, section.path, section.context_length)

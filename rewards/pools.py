"""Which pools a run's rewards are served by: what the composition root turns into members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.registry import Deferred
from configs.schema import RunConfig

__all__ = ["Pool", "pools", "server"]

RESTARTS = 20


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many members of what, and who must know of them; the fields of a member's specification."""

    pool: str
    factory: Deferred
    members: int
    num_cpus: float = 0.0
    max_restarts: int = RESTARTS
    max_members: int | None = None
    attached_to: tuple[str, ...] = ()


def server(config: RunConfig, name: str) -> Deferred:
    """Say how one replica of a component is made."""
    return Deferred("rewards.member:build", (config.rewards.components[name], name, config.seed))


def pools(config: RunConfig, run_folder: Path, spec: Deferred) -> Iterator[Pool]:
    """Yield the pools of a configuration, in the order in which they are started.

    Args:
      spec: returns what a decision policy acts in.
    """
    for name, section in config.rewards.components.items():
        yield Pool(
            pool=f"reward.{name}", factory=server(config, name), members=section.replicas,
            num_cpus=section.num_cpus, max_restarts=section.max_restarts, attached_to=("buffer", "evaluator"),
        )  # fmt: skip
    if config.intrinsic != "none":
        yield from _intrinsic(config, run_folder, spec)


def _intrinsic(config: RunConfig, run_folder: Path, spec: Deferred) -> Iterator[Pool]:
    section, known = config.exploration, spec if config.is_decision else None
    yield Pool(
        pool="reward.intrinsic", factory=Deferred("rewards.intrinsic.member:build", (config, "intrinsic", known)),
        members=section.replicas, attached_to=("buffer", "intrinsic_learner"),
    )  # fmt: skip
    learner = Deferred("rewards.intrinsic.learner:build", (config, run_folder, known))
    yield Pool(
        pool="intrinsic_learner", factory=learner,
        members=1, max_members=1, attached_to=("reward.intrinsic",),
    )  # fmt: skip
    asked = section.annotation
    annotator = Deferred("rewards.intrinsic.annotators.member:build", (asked, "annotator", config.seed))
    yield Pool(
        pool="annotator", factory=annotator,
        members=asked.annotators, attached_to=("intrinsic_learner",),
    )  # fmt: skip

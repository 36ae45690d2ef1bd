"""Which pools a run's rewards are served by: what the composition root turns into members."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import DataError, require
from configs.parts import Parts
from configs.placement import PlacementConfig
from configs.registry import Deferred, split
from configs.rewarding import RewardComponentConfig
from configs.scaling import ScalingConfig
from configs.schema import RunConfig
from rewards import component_class
from rewards.endpoints.models import model_pool, models_asked
from rewards.online.base import is_online, learner_pool
from rewards.reference import reference_folder

__all__ = ["Pool", "asking_policy", "pools", "server"]

RESTARTS = 20
ALONE = ScalingConfig(max=1)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many members of what, and who must know of them; the fields of a member's specification."""

    pool: str
    factory: Deferred
    members: int
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    max_restarts: int = RESTARTS
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    max_members: int | None = None
    attached_to: tuple[str, ...] = ()
    drains: bool = False
    figures: str = ""
    """Prefix under which the `stats` of its members are metrics of the run; empty: they are not."""


def server(config: RunConfig, name: str, reference: Path | None = None) -> Deferred:
    """Say how one replica of a component is made outside a run, where nothing is learned.

    Args:
      reference: model folder of the policy before its first update; None: nobody knows one.

    Raises:
      ConfigError: it asks a model that only a run serves.
      DataError: it asks the policy before its first update, which is not there.
    """
    asked = list(models_asked(config.rewards.components[name].component))
    place, remedy = f"rewards.components.{name}.component.endpoint", "serve the model yourself and give its url"
    require(not asked, f"{place}.model_pool", asked, "be asked in a run only, which starts the pool", remedy)
    if _asks_reference(config.rewards.components[name], name) and not (reference and reference.is_dir()):
        where = "no run is given" if reference is None else f"{reference} is no folder"
        what = f"rewards.components.{name} asks the policy as it was before its first update, and {where}"
        raise DataError(f"{what}; put the model folder back, or name a run that has it")
    return _replica(config, name, reference)


def asking_policy(config: RunConfig) -> tuple[str, ...]:
    """Return the pools whose components ask the rollout workers for log-probabilities."""
    parts = config.rewards.components.items()
    return tuple(f"reward.{name}" for name, section in parts if "policy" in component_class(name, section).needs)


def pools(config: RunConfig, run_folder: Path, parts: Parts) -> Iterator[Pool]:
    """Yield the pools of a configuration, in the order in which they are started."""
    yield from _models(config, parts)
    reference = reference_folder(config, run_folder).resolve()
    for name, section in config.rewards.components.items():
        learns = is_online(section, name)
        learner = (learner_pool(name),) if learns else ()
        online = Deferred("rewards.online.member:build", (config, run_folder, name))
        yield Pool(
            pool=f"reward.{name}", factory=online if learns else _replica(config, name, reference),
            members=section.replicas, num_cpus=section.num_cpus, num_gpus=section.num_gpus,
            placement=section.placement, max_restarts=section.max_restarts, scaling=section.scaling,
            attached_to=("buffer", "evaluator", *learner), drains=learns,
        )  # fmt: skip
        if learns:
            yield Pool(
                pool=learner_pool(name), factory=Deferred("rewards.online.learner:build", (config, run_folder, name)),
                members=1, scaling=ALONE, attached_to=(f"reward.{name}",), figures=f"rewards/{name}/learner/",
            )  # fmt: skip
    if config.intrinsic != "none":
        yield from _intrinsic(config, run_folder, parts.spec)


def _asks_reference(section: RewardComponentConfig, name: str) -> bool:
    """Return whether a component is given the run's reference: it needs it, or it names no folder in its place."""
    component = component_class(name, section)
    _, own = split(section.component, f"rewards.components.{name}.component")
    return "reference" in component.needs or "reference" in inspect.signature(component).parameters.keys() - own.keys()


def _replica(config: RunConfig, name: str, reference: Path | None) -> Deferred:
    arguments = (config.rewards.components[name], name, config.seed, tuple(config.rewards.models), reference)
    return Deferred("rewards.member:build", arguments)


def _models(config: RunConfig, parts: Parts) -> Iterator[Pool]:
    asking: dict[str, Any] = {}
    for name, section in config.rewards.components.items():
        asking[f"reward.{name}"] = section.component
        if is_online(section, name):
            asking[learner_pool(name)] = section.component
    if config.intrinsic != "none":
        asking["annotator"] = config.exploration.annotation.annotator
    for name, model in config.rewards.models.items():
        yield Pool(
            pool=model_pool(name), factory=parts.model_server(name), members=model.replicas,
            num_cpus=model.num_cpus, num_gpus=model.num_gpus, placement=model.placement,
            max_restarts=model.max_restarts, scaling=model.scaling,
            attached_to=tuple(pool for pool, component in asking.items() if name in models_asked(component)),
        )  # fmt: skip


def _intrinsic(config: RunConfig, run_folder: Path, spec: Deferred) -> Iterator[Pool]:
    section, known = config.exploration, spec if config.is_decision else None
    yield Pool(
        pool="reward.intrinsic", factory=Deferred("rewards.intrinsic.member:build", (config, "intrinsic", known)),
        members=section.replicas, attached_to=("buffer", "intrinsic_learner"), scaling=section.scaling, drains=True,
    )  # fmt: skip
    learner = Deferred("rewards.intrinsic.learner:build", (config, run_folder, known))
    yield Pool(
        pool="intrinsic_learner", factory=learner,
        members=1, scaling=ALONE, attached_to=("reward.intrinsic",), figures="intrinsic/",
    )  # fmt: skip
    asked = section.annotation
    annotator = Deferred(
        "rewards.intrinsic.annotators.member:build", (asked, "annotator", config.seed, tuple(config.rewards.models))
    )
    yield Pool(
        pool="annotator", factory=annotator,
        members=asked.annotators, attached_to=("intrinsic_learner",), scaling=asked.scaling,
    )  # fmt: skip

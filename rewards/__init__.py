"""Rewards: who scores.

This package owns the reward components, the `RewardServer` that hosts one of them (batching,
deadlines, retries, circuit breaker) and the `RewardGraph` that asks all of them and combines their
scores. It never sees Ray, the store or the learner: servers are plain asyncio objects, and the graph
reaches them through handles.

An invalid score (timeout, error, abstained) has no value; nothing in here turns it into a 0.

To add a component, subclass `rewards.base.Component` (its docstring has one in four lines), give it
a one-line docstring and a `Source:` line, and add it to REWARDS; or leave this repository alone and
write `target: my_package:MyReward`. The fields of the class are the keys of its section:

    rewards:
      components:
        correct: {component: {target: numeric, absolute_tolerance: 0.01}, weight: 1.0}
        short: {component: {target: length_penalty, target_tokens: 200}, weight: 0.1}

Two components need no section: `environment`, the return of a fragment, which every decision run has, and
`intrinsic`, which `RunConfig.intrinsic` asks for. A component with `when: batch` is scored when the learner's
batch is read, by the newest model.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Mapping
from typing import Any, cast

from buffers.scores import ENVIRONMENT, INTRINSIC
from buffers.transport import HandleSet, LocalHandle
from configs.errors import ConfigError, one_of, require
from configs.registry import construct, resolve, split
from configs.schema import RewardComponentConfig, RunConfig
from rewards.base import Component
from rewards.combine import Combine
from rewards.environment import EnvironmentReturn
from rewards.graph import RewardGraph, RewardPart
from rewards.server import RewardServer, verdict_deadline_s

__all__ = ["COMBINES", "REWARDS", "build", "build_combine", "build_server", "describe"]

REWARDS = {
    "exact_match": "rewards.verifiers.exact_match:ExactMatch",
    "format": "rewards.verifiers.format:Format",
    "length_penalty": "rewards.verifiers.length:LengthPenalty",
    "math": "rewards.verifiers.symbolic:MathEqual",
    "numeric": "rewards.verifiers.numeric:Numeric",
    "reasoning_gym": "rewards.verifiers.reasoning_gym:ReasoningGym",
    "soft_overlong": "rewards.verifiers.length:SoftOverlong",
}

COMBINES = {
    "weighted_sum": "rewards.combine:WeightedSum",
}


def build(config: RunConfig, pools: Mapping[str, HandleSet]) -> RewardGraph:
    """Return the reward graph over `pools`, the replicas of each component by its name.

    Without a pool `intrinsic` that component is left out: evaluations do not ask how new a place is.

    Raises:
      ConfigError: no component, an unknown target, a name that is taken, or an `after` that cannot be met.
    """
    _refuse_taken_names(config)
    sections = config.rewards.components
    parts = {name: _part(name, part, pools[name]) for name, part in sections.items()}
    if config.is_decision:
        parts[ENVIRONMENT] = _environment(config)
    if config.intrinsic != "none" and INTRINSIC in pools:
        parts[INTRINSIC] = _intrinsic(config, pools[INTRINSIC])
    if not parts:
        raise ConfigError("rewards.components is empty; it must name a reward; see `launch.py list rewards`")
    filters = config.buffer.filters
    judged = not filters or any(part.when == "arrival" for part in parts.values())
    require(judged, "buffer.filters", filters, "have a reward to look at when samples arrive", "use none, or add one")
    try:
        return RewardGraph(parts, build_combine(config, parts))
    except ValueError as error:
        raise ConfigError(f"rewards.components: {error}") from error


def build_combine(config: RunConfig, names: Iterable[str] | None = None) -> Combine:
    """Return what turns the scores of all components into one verdict; pure, so it can be applied again.

    Args:
      names: components of the graph; None: all that training has.
    """
    weights = {name: part.weight for name, part in config.rewards.components.items()}
    if config.is_decision:
        weights[ENVIRONMENT] = 1.0  # intrinsic rewards belong to steps: the learner adds them there
    elif config.intrinsic != "none":
        weights[INTRINSIC] = config.exploration.intrinsic_coefficient
    kept = {name: weight for name, weight in weights.items() if names is None or name in names}
    return cast(Combine, construct(COMBINES, config.rewards.combine, "rewards.combine", weights=kept))


def build_server(section: RewardComponentConfig, *, name: str, rng: random.Random, **dependencies: Any) -> RewardServer:
    """Return a server for one replica of the component `name`; runs in the replica's process.

    Raises:
      ConfigError: the section names an unknown target or argument, or a value was refused.
    """
    component = construct(REWARDS, section.component, _where(name), **dependencies)
    return RewardServer(
        component,
        name=name,
        batch_size=section.batch_size,
        concurrency=section.concurrency,
        deadline_s=section.deadline_s,
        retries=section.retries,
        breaker_failures=section.breaker_failures,
        breaker_reset_s=section.breaker_reset_s,
        rng=rng,
    )


def describe() -> list[tuple[str, str, str]]:
    """Return (name, one-line description, source) of every reward in the table."""
    rows = []
    for name in sorted(REWARDS):
        text = inspect.getdoc(resolve(REWARDS, name, "rewards")) or ""
        source = text.partition("Source:")[2].partition("\n\n")[0]
        rows.append((name, text.partition("\n")[0], " ".join(source.split())))
    return rows


def _part(name: str, section: RewardComponentConfig, pool: HandleSet) -> RewardPart:
    target, arguments = split(section.component, _where(name))
    component = resolve(REWARDS, target, _where(name))
    if not (inspect.isclass(component) and issubclass(component, Component)):
        raise ConfigError(f"{_where(name)}.target is {target!r}; it must be a subclass of rewards.base.Component")
    when = arguments.get("when", component.when)
    one_of(f"{_where(name)}.when", when, ("arrival", "batch"))
    return RewardPart(
        replicas=pool,
        deadline_s=verdict_deadline_s(section.deadline_s, section.breaker_reset_s),
        scope=component.scope,
        needs=component.needs,
        after=component.after,
        when=when,
    )


def _environment(config: RunConfig) -> RewardPart:
    replicas = HandleSet(ENVIRONMENT)
    replicas.attach(LocalHandle(ENVIRONMENT, EnvironmentReturn()))
    return RewardPart(replicas=replicas, deadline_s=config.cluster.call_deadline_s)


def _intrinsic(config: RunConfig, pool: HandleSet) -> RewardPart:
    exploration = config.exploration
    return RewardPart(
        replicas=pool,
        deadline_s=exploration.deadline_s,
        needs=frozenset({"captions", "observations"}),
        when="batch" if exploration.scored_at == "learner" else "arrival",
    )


def _refuse_taken_names(config: RunConfig) -> None:
    taken = [ENVIRONMENT] * config.is_decision + [INTRINSIC] * (config.intrinsic != "none")
    for name in taken:
        known = name not in config.rewards.components
        require(known, "rewards.components", name, "be another name, since the run has this component", "rename it")


def _where(name: str) -> str:
    return f"rewards.components.{name}.component"

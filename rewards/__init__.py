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
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from typing import Any, cast

from buffers.transport import HandleSet
from configs.errors import ConfigError
from configs.registry import construct, resolve, split
from configs.schema import RewardComponentConfig, RewardsConfig
from rewards.base import Component
from rewards.combine import Combine
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


def build(section: RewardsConfig, pools: Mapping[str, HandleSet]) -> RewardGraph:
    """Return the reward graph over `pools`, the replicas of each component by its name.

    Raises:
      ConfigError: no component, an unknown target, or an `after` that cannot be met.
    """
    if not section.components:
        raise ConfigError("rewards.components is empty; it must name a reward; see `launch.py list rewards`")
    parts = {name: _part(name, part, pools[name]) for name, part in section.components.items()}
    try:
        return RewardGraph(parts, build_combine(section))
    except ValueError as error:
        raise ConfigError(f"rewards.components: {error}") from error


def build_combine(section: RewardsConfig) -> Combine:
    """Return what turns the scores of all components into one verdict; pure, so it can be applied again."""
    weights = {name: part.weight for name, part in section.components.items()}
    return cast(Combine, construct(COMBINES, section.combine, "rewards.combine", weights=weights))


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
    target, _ = split(section.component, _where(name))
    component = resolve(REWARDS, target, _where(name))
    if not (inspect.isclass(component) and issubclass(component, Component)):
        raise ConfigError(f"{_where(name)}.target is {target!r}; it must be a subclass of rewards.base.Component")
    if component.when != "arrival":
        raise ConfigError(f"{_where(name)}.target has when={component.when!r}; only arrival is served; change it")
    return RewardPart(
        replicas=pool,
        deadline_s=verdict_deadline_s(section.deadline_s, section.breaker_reset_s),
        scope=component.scope,
        needs=component.needs,
        after=component.after,
    )


def _where(name: str) -> str:
    return f"rewards.components.{name}.component"

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

A component's score passes a chain of transforms, and its weight may follow a schedule. With `credit: steps` its
span values become the rewards of steps, which estimators such as `process_return` read beside the total. A gate
that is not passed ends it all. What is recorded are the raw scores, so that a replay combines them anew:

    rewards:
      components:
        tagged: {component: {target: format, tags: [think, answer]}, weight: 0.0}
        correct: {component: {target: exact_match}}
        steps:
          component: {target: my_package:StepJudge}
          credit: steps
          weight: {target: linear, start: 1.0, end: 0.0, updates: 200}
          transforms: [{target: clip, low: -1.0, high: 1.0}]
      gates: [{component: tagged, above: 0.5, floor: -1.0}]
      combine: {target: weighted_sum}
    learner:
      advantage: {target: process_return}

Two components need no section: `environment`, the return of a fragment, which every decision run has, and
`intrinsic`, which `RunConfig.intrinsic` asks for. A component with `when: batch` is scored when the learner's
batch is read, by the newest model.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from typing import Any

from buffers.scores import ENVIRONMENT, INTRINSIC
from buffers.transport import HandleSet, LocalHandle
from configs.errors import ConfigError, one_of, require
from configs.registry import Deferred, construct, resolve, split
from configs.rewarding import RewardComponentConfig
from configs.schema import RunConfig
from rewards.base import Component
from rewards.combine import Combine, Gate, Term
from rewards.endpoints.models import NO_MODELS
from rewards.environment import EnvironmentReturn
from rewards.graph import RewardGraph, RewardPart
from rewards.policy import Policy
from rewards.schedules import Constant, build_schedule
from rewards.server import BREAKER_RESET_S, RewardServer, verdict_deadline_s
from rewards.transforms import build_transforms

__all__ = [
    "COMBINES",
    "REWARDS",
    "build",
    "build_combine",
    "build_component",
    "build_server",
    "component_class",
    "serve",
]

REWARDS = {
    "answer_or_abstain": "rewards.verifiers.abstention:AnswerOrAbstain",
    "box_criteria": "rewards.verifiers.box_rewards:BoxCriteria",
    "box_detection": "rewards.verifiers.box_rewards:BoxDetection",
    "box_overlap": "rewards.verifiers.box_rewards:BoxOverlap",
    "calibrated_abstention": "rewards.verifiers.calibration:CalibratedAbstention",
    "code": "rewards.verifiers.code:CodeTests",
    "discriminative_prm": "rewards.process.discriminative:DiscriminativePrm",
    "entity_match": "rewards.verifiers.entities:EntityMatch",
    "exact_match": "rewards.verifiers.exact_match:ExactMatch",
    "format": "rewards.verifiers.format:Format",
    "gated_cost": "rewards.shaping.gated_cost:GatedCost",
    "generative_prm": "rewards.process.generative:GenerativePrm",
    "hierarchical_prm": "rewards.process.hierarchical:HierarchicalPrm",
    "implicit_prm": "rewards.process.implicit:ImplicitPrm",
    "information_gain": "rewards.process.information:InformationGain",
    "json_schema": "rewards.verifiers.json_schema:JsonSchema",
    "judge_all_pairs": "rewards.judges.all_pairs:AllPairs",
    "judge_checklist": "rewards.judges.checklist:Checklist",
    "judge_evolving": "rewards.judges.evolving:Evolving",
    "judge_listwise": "rewards.judges.listwise:Listwise",
    "judge_log_odds": "rewards.judges.log_odds:LogOdds",
    "judge_pairwise": "rewards.judges.pairwise:Pairwise",
    "judge_pointwise": "rewards.judges.pointwise:Pointwise",
    "judge_principles": "rewards.judges.principles:Principles",
    "judge_random_reference": "rewards.judges.random_reference:RandomReference",
    "judge_tools": "rewards.judges.tools:WithTools",
    "judge_votes": "rewards.judges.votes:Votes",
    "length_penalty": "rewards.verifiers.length:LengthPenalty",
    "math": "rewards.verifiers.symbolic:MathEqual",
    "multiple_choice": "rewards.verifiers.choice:MultipleChoice",
    "numeric": "rewards.verifiers.numeric:Numeric",
    "preferences": "rewards.shaping.preferences:Preferences",
    "prime": "rewards.process.prime:Prime",
    "prover_progress": "rewards.process.prover:ProverProgress",
    "reasoning_gym": "rewards.verifiers.reasoning_gym:ReasoningGym",
    "repetition_penalty": "rewards.verifiers.repetition:RepetitionPenalty",
    "soft_overlong": "rewards.verifiers.length:SoftOverlong",
    "sql": "rewards.verifiers.sql:Sql",
    "text_match": "rewards.verifiers.text_match:TextMatch",
    "usage": "rewards.verifiers.usage:Usage",
}

COMBINES = {
    "minimum": "rewards.rules:Minimum",
    "product": "rewards.rules:Product",
    "weighted_sum": "rewards.rules:WeightedSum",
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
    judged = not filters or any(p.when == "arrival" for n, p in parts.items() if _counts(config, n))
    require(judged, "buffer.filters", filters, "have a reward to look at when samples arrive", "use none, or add one")
    try:
        return RewardGraph(parts, build_combine(config))
    except ValueError as error:
        raise ConfigError(f"rewards.components: {error}") from error


def build_combine(config: RunConfig) -> Combine:
    """Return what turns the scores of all components into one verdict; pure, so it can be applied again.

    Raises:
      ConfigError: an unknown rule, schedule or gate.
    """
    terms = {name: _term(name, section) for name, section in config.rewards.components.items()}
    if config.is_decision:
        terms[ENVIRONMENT] = Term()  # intrinsic rewards belong to steps: the learner adds them there
    elif config.intrinsic != "none":
        terms[INTRINSIC] = Term(weight=Constant(config.exploration.intrinsic_coefficient))
    target, arguments = split(config.rewards.combine, "rewards.combine")
    ignored = arguments.pop("ignore_invalid", ())
    rule = construct(COMBINES, {"target": target, **arguments}, "rewards.combine")
    gates = [Gate(component=gate.component, above=gate.above, floor=gate.floor) for gate in config.rewards.gates]
    try:
        return Combine(terms, rule, gates=gates, ignore_invalid=ignored)
    except ValueError as error:
        raise ConfigError(f"rewards: {error}") from error


def build_server(section: RewardComponentConfig, *, name: str, rng: random.Random, **dependencies: Any) -> RewardServer:
    """Return a server for one replica of the component `name`; runs in the replica's process.

    Args:
      dependencies: what a component may name as a parameter: `policy` and `reference`, without which nobody
        answers it, and `model_pools`, by their names in `rewards.models`.

    Raises:
      ConfigError: the section names an unknown target or argument, or a value was refused.
    """
    return serve(build_component(section, name, **dependencies), section, name=name, rng=rng)


def build_component(section: RewardComponentConfig, name: str, **dependencies: Any) -> Any:
    """Return the component `name` of a section; errors as of `build_server`."""
    given = {
        "policy": Policy(HandleSet("rollout"), section.deadline_s),
        "reference": Deferred("rewards.reference:Reference", (None,))(),
        "call_deadline_s": section.deadline_s,
        "model_pools": NO_MODELS,
    } | dependencies
    _, own = split(section.component, _where(name))
    if "reference" in own and "reference" not in component_class(name, section).needs:
        del given["reference"]  # it names a folder of its own
    return construct(REWARDS, section.component, _where(name), **given)


def serve(component: Component, section: RewardComponentConfig, *, name: str, rng: random.Random) -> RewardServer:
    """Return a server with the settings of a section around a component."""
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


def component_class(name: str, section: RewardComponentConfig) -> type[Component]:
    """Return the class of a component.

    Raises:
      ConfigError: the section names none.
    """
    target, _ = split(section.component, _where(name))
    component = resolve(REWARDS, target, _where(name))
    if not (inspect.isclass(component) and issubclass(component, Component)):
        raise ConfigError(f"{_where(name)}.target is {target!r}; it must be a subclass of rewards.base.Component")
    return component


def _part(name: str, section: RewardComponentConfig, pool: HandleSet) -> RewardPart:
    component = component_class(name, section)
    _, arguments = split(section.component, _where(name))
    when, after = arguments.get("when", component.when), arguments.get("after", component.after)
    one_of(f"{_where(name)}.when", when, ("arrival", "batch"))
    require(not isinstance(after, str), f"{_where(name)}.after", after, "be a list", f"write [{after}]")
    return RewardPart(
        replicas=pool,
        deadline_s=verdict_deadline_s(section.deadline_s, section.breaker_reset_s),
        scope=component.scope,
        needs=component.needs,
        after=frozenset(after),
        when=when,
    )


def _counts(config: RunConfig, name: str) -> bool:
    """Return whether the value of a component is part of the total, which filters look at."""
    return name not in config.rewards.components or config.rewards.components[name].credit != "steps"


def _term(name: str, section: RewardComponentConfig) -> Term:
    where = f"rewards.components.{name}"
    return Term(
        weight=build_schedule(section.weight, f"{where}.weight"),
        credit=section.credit,
        transforms=build_transforms(section.transforms, f"{where}.transforms"),
    )


def _environment(config: RunConfig) -> RewardPart:
    replicas = HandleSet(ENVIRONMENT)
    replicas.attach(LocalHandle(ENVIRONMENT, EnvironmentReturn()))
    return RewardPart(replicas=replicas, deadline_s=config.cluster.call_deadline_s)


def _intrinsic(config: RunConfig, pool: HandleSet) -> RewardPart:
    # The learner waits for a batch's scores, so a call's deadline is all they get; what arrives can outwait a restart.
    at_learner, deadline_s = config.exploration.scored_at == "learner", config.exploration.deadline_s
    return RewardPart(
        replicas=pool,
        deadline_s=deadline_s if at_learner else verdict_deadline_s(deadline_s, BREAKER_RESET_S),
        needs=frozenset({"captions", "observations"}),
        when="batch" if at_learner else "arrival",
    )


def _refuse_taken_names(config: RunConfig) -> None:
    taken = [ENVIRONMENT] * config.is_decision + [INTRINSIC] * (config.intrinsic != "none")
    for name in taken:
        known = name not in config.rewards.components
        require(known, "rewards.components", name, "be another name, since the run has this component", "rename it")


def _where(name: str) -> str:
    return f"rewards.components.{name}.component"

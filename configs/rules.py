"""Combinations of settings, each fine alone, that no run can have."""

from __future__ import annotations

from configs.demands import demands
from configs.errors import require
from configs.schema import RunConfig

__all__ = ["check_rules"]

# Estimators whose baseline is the other members of a group.
OUTCOME_ADVANTAGES = ("group_normalised", "group_centred", "leave_one_out")
PROCESS_ADVANTAGES = ("process_normalised", "process_return", "process_minimum", "process_sum")


def check_rules(config: RunConfig) -> None:
    """Refuse impossible combinations.

    Raises:
      ConfigError: names one key of the combination, its value, the rule and the remedy.
    """
    _batch_rules(config)
    _reward_rules(config)
    _rollout_rules(config)
    _time_rules(config)
    _placement_rules(config)
    _local_rules(config)
    if config.is_decision:
        _decision_rules(config)


def _batch_rules(config: RunConfig) -> None:
    batch, learner = config.batch, config.learner
    target = learner.advantage.get("target")
    require(
        config.is_decision or batch.num_generations >= 2 or target not in OUTCOME_ADVANTAGES + PROCESS_ADVANTAGES,
        "batch.num_generations",
        batch.num_generations,
        f"be >= 2 with learner.advantage.target={target}, whose baseline is the rest of the group",
        "8 is usual",
    )
    steps = learner.minibatches * learner.ranks
    require(
        learner.minibatches >= 1 and steps <= batch.samples,
        "learner.minibatches",
        learner.minibatches,
        f"be >= 1 and leave each of {learner.ranks} ranks a sample of the {batch.samples} per update",
        "lower learner.minibatches or learner.ranks, or raise batch.prompts_per_update",
    )
    require(
        learner.micro_batch_tokens >= config.rollout.context_length,
        "learner.micro_batch_tokens",
        learner.micro_batch_tokens,
        f"hold one trajectory of rollout.context_length={config.rollout.context_length}",
        "raise it, or shorten the context",
    )


def _reward_rules(config: RunConfig) -> None:
    target = config.learner.advantage.get("target")
    stepwise = [name for name, part in config.rewards.components.items() if part.credit != "outcome"]
    require(
        not stepwise or target not in OUTCOME_ADVANTAGES,
        "learner.advantage.target",
        target,
        f"read the rewards of steps, which rewards.components.{'/'.join(stepwise)} gives with credit: steps or both",
        f"use one of {', '.join(PROCESS_ADVANTAGES)}, or credit: outcome",
    )
    require(
        bool(stepwise) or target not in PROCESS_ADVANTAGES,
        "learner.advantage.target",
        target,
        "have rewards of steps to read, and no component has credit: steps or both",
        f"set rewards.components.NAME.credit=steps, or use one of {', '.join(OUTCOME_ADVANTAGES)}",
    )
    judge, known = config.eval.component, config.rewards.components
    rule = f"name one of rewards.components ({', '.join(known)})"
    require(not judge or judge in known, "eval.component", judge, rule, "leave it out to take the total")


def _rollout_rules(config: RunConfig) -> None:
    rollout = config.rollout
    require(
        rollout.temperature > 0,
        "rollout.temperature",
        rollout.temperature,
        "be > 0 in training, since greedy samples of a group are all alike",
        "1.0 is usual; eval.temperature sets the temperature of evaluations",
    )
    require(
        1 <= rollout.prefill_chunk <= rollout.context_length,
        "rollout.prefill_chunk",
        rollout.prefill_chunk,
        f"lie in [1, rollout.context_length={rollout.context_length}]",
        "16 suits short prompts",
    )


def _time_rules(config: RunConfig) -> None:
    require(
        0 <= config.learner.warmup_updates <= config.updates,
        "learner.warmup_updates",
        config.learner.warmup_updates,
        f"lie in [0, updates={config.updates}]",
        "a tenth of the updates is usual",
    )
    cluster = config.cluster
    require(
        0 < cluster.heartbeat_s < cluster.heartbeat_deadline_s,
        "cluster.heartbeat_s",
        cluster.heartbeat_s,
        f"lie between 0 and cluster.heartbeat_deadline_s={cluster.heartbeat_deadline_s:g}",
        "2 is usual",
    )


def _placement_rules(config: RunConfig) -> None:
    for demand in demands(config):
        gpus = demand.each.get("GPU", 0.0)
        rule = "be at most 1, or a whole number: a GPU is shared by halves, not one and a half given"
        require(gpus <= 1 or gpus == int(gpus), f"num_gpus of {demand.pool}", gpus, rule, "round it up")


def _local_rules(config: RunConfig) -> None:
    ranks, is_local = config.learner.ranks, config.cluster.address == "local"
    rule = "be 1 with cluster.address=local: ranks wait for each other, each in a process of its own"
    require(ranks == 1 or not is_local, "learner.ranks", ranks, rule, "leave cluster.address out")


def _decision_rules(config: RunConfig) -> None:
    backend = config.learner.backend.get("target")
    rule = "be ddp with an environment, whose networks are small"
    require(backend == "ddp", "learner.backend.target", backend, rule, "leave it out")
    rank, rule = config.model.adapter.rank, "be 0 with an environment, whose networks are small"
    require(rank == 0, "model.adapter.rank", rank, rule, "leave it out")
    require(not config.learner.bf16, "learner.bf16", True, "be false with an environment", "leave it out")
    require(
        config.warm_start.updates == 0,
        "warm_start.updates",
        config.warm_start.updates,
        "be 0 with an environment, which has no reference answers",
        "remove it",
    )
    require(
        not config.rewards.components,
        "rewards.components",
        sorted(config.rewards.components),
        "be empty with an environment, which pays the rewards itself",
        "remove it, or set intrinsic= to add one that is learned",
    )

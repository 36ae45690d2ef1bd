"""What a seed stands for: the configuration of a run, and how badly the world treats it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_network import Fate

from configs.cluster import ClusterConfig
from configs.language import BatchConfig, EvalConfig, ModelConfig
from configs.learning import LearnerConfig, PublishConfig
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.rollout import RolloutConfig
from configs.scaling import ScalingConfig
from configs.schema import RunConfig
from configs.stream import BufferConfig, CheckpointConfig

__all__ = ["Faults", "Scenario"]

REPLAY_MAX_AGE = 6
REPEATABLE = {
    "rollout": {"exchange", "receive", "ping"},
    "buffer": {"attach", "detach", "batch_table", "next_batch", "commit", "record_version", "stats", "flush", "ping"},
    "reward.judge": {"score", "ping"},
    "learner": {"update", "publication", "receivers", "ping"},
}
"""Calls that may be delivered twice: their methods say so, or their callers repeat them."""


@dataclass(frozen=True)
class Faults:
    """Rates and probabilities of one seed; all drawn from the seed."""

    slow_share: float
    lost_share: float
    twice_share: float
    typical_delay_s: float
    kill_every_s: float
    stall_every_s: float
    crash_every_s: float
    heal_at_s: float


class Scenario:
    """Everything that follows from a seed."""

    def __init__(self, seed: int, *, calm: bool = False) -> None:
        rng = random.Random(f"scenario {seed}")
        self.seed, self.calm = seed, calm
        self.max_staleness = rng.choice([0, 0, 1, 2, 3, 4])
        self.mode = "sync" if self.max_staleness == 0 and rng.random() < 0.3 else "async"
        self.sampler: dict[str, Any] = {"target": rng.choice(["fifo", "in_order", "prioritised", "replay"])}
        if self.sampler["target"] == "replay" and self.mode == "sync":
            self.sampler["target"] = "fifo"  # a resume behind version 0 refuses this pair, for good
        if self.sampler["target"] == "replay":
            self.sampler["max_age"] = REPLAY_MAX_AGE
            self.mode = "async"  # a synchronous run that repeats groups refuses to be resumed
        self.groups, self.members = rng.randint(1, 3), rng.randint(1, 4)
        self.workers, self.replicas = rng.randint(1, 3), rng.randint(1, 2)
        self.updates, self.step_s = rng.randint(4, 8), rng.choice([0.01, 0.03, 0.1])
        self.policy, self.backend = rng.choice(["wait", "drop"]), rng.choice(["object_store", "shared_memory"])
        self.filters: list[dict[str, Any]] = [{"target": "zero_variance"}] if rng.random() < 0.3 else []
        self.filters = self.filters if self.members > 1 else []
        self.failing_share = rng.choice([0.0, 0.0, 0.1])
        self.judge = rng.choice(["HashReward", "HashGroupReward"])
        self.broken_share = rng.choice([0.0, 0.02])
        """Requests that an engine fails, and tasks that no attempt can do."""
        self.checkpoint_every = rng.randint(1, 3)
        self.judged = "arrival"
        self.exact = self.max_staleness == 0 and self.sampler["target"] != "replay"
        """Timing must not change what is trained: then no fault may change a score either."""
        bad = rng.random() ** 2
        self.faults = Faults(
            slow_share=0.2 * bad * rng.random(), lost_share=0.03 * bad * rng.random(), twice_share=0.2 * rng.random(),
            typical_delay_s=rng.choice([0.001, 0.005, 0.02]), kill_every_s=rng.choice([0.7, 2.0, 8.0]),
            stall_every_s=rng.choice([1.0, 4.0, 30.0]), crash_every_s=rng.choice([3.0, 10.0, 100.0]),
            heal_at_s=rng.uniform(2.0, 15.0),
        )  # fmt: skip
        if not self.filters and rng.random() < 0.4:  # filters see the rewards at arrival alone
            self.judged = "batch"
        poison = rng.choice([0.0, 0.05, 0.15])
        self.poison_share = 0.0 if self.exact else poison
        """Slots that kill the worker that begins them; a worker that is killed otherwise can make others look so."""
        self.silence_s = 0.0 if self.exact else rng.choice([0.0, 0.0, 40.0])
        """Seconds for which a worker, now and then, answers everything and brings nothing."""
        self.automatic = rng.random() < 0.5
        """Pools scale by themselves, 1 to 3 members."""

    def config(self, folder: Path, *, resume: bool) -> RunConfig:
        """Return the configuration of a run folder; deadlines are short, so that simulated minutes suffice."""
        component = {"target": f"sim_parts:{self.judge}", "seed": self.seed, "failing_share": self.failing_share}
        component["when"] = self.judged
        bounds = ScalingConfig(
            min=1, max=3 if self.automatic else None, target_queue_s=0.05, up_cooldown_s=1.0,
            down_cooldown_s=2.0,
        )  # fmt: skip
        reward = RewardComponentConfig(
            component=component, replicas=self.replicas, deadline_s=3.0, max_restarts=999, scaling=bounds
        )
        return RunConfig(
            name=folder.name, runs_folder=str(folder.parent), seed=self.seed, mode=self.mode, resume=resume,
            max_staleness=self.max_staleness, updates=self.updates,
            model=ModelConfig(architecture={"model_type": "stand-in"}),
            batch=BatchConfig(prompts_per_update=self.groups, num_generations=self.members),
            rollout=RolloutConfig(
                workers=self.workers, max_completion_length=8, context_length=32, message_samples=3,
                message_wait_s=0.1, max_restarts=999, scaling=bounds,
            ),
            rewards=RewardsConfig(components={"judge": reward}),
            buffer=BufferConfig(
                sampler=self.sampler, filters=self.filters, staleness_policy=self.policy,
                group_deadline_s=1e6 if self.exact else 20.0, max_attempts=999 if self.exact else 6,
                max_worker_kills=999 if self.exact else 3, segment_bytes=20_000,
            ),
            learner=LearnerConfig(update_deadline_s=20.0),
            publish=PublishConfig(backend=self.backend, deadline_s=5.0),
            eval=EvalConfig(tasks=0, every=0),
            checkpoint=CheckpointConfig(every=self.checkpoint_every),
            cluster=ClusterConfig(
                address="local", call_deadline_s=5.0, start_deadline_s=10.0, heartbeat_s=0.5,
                heartbeat_deadline_s=4.0, progress_deadline_s=120.0 if not self.silence_s else 50.0,
                restart_refill_s=2.0, drain_deadline_s=8.0,
            ),
        )  # fmt: skip

    def fate(self, rng: random.Random, pool: str, method: str, *, healed: bool, may_lose: bool) -> Fate:
        """Say what happens to one call."""
        faults = self.faults

        def delay() -> float:
            late = not (healed or self.calm) and rng.random() < faults.slow_share
            return rng.lognormvariate(0.0, 1.0) * (1.0 if late else faults.typical_delay_s)

        fate = Fate(arrives_after=(delay(),), answers_after=delay())
        if healed or self.calm:
            return fate
        if method in REPEATABLE.get(pool, ()) and rng.random() < faults.twice_share:
            fate.arrives_after = (*fate.arrives_after, delay())
        # A lost answer of a reward server is a time-out: it changes what is trained.
        may_lose = may_lose and not (self.exact and method == "score")
        if may_lose and rng.random() < faults.lost_share:
            if rng.random() < 0.5:
                fate.arrives_after = ()
            else:
                fate.answer_lost = True
        return fate

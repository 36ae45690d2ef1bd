"""Settings of decision policies: environments, actor-critic learning, intrinsic rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.errors import one_of, require
from configs.placement import PlacementConfig
from configs.scaling import ScalingConfig

__all__ = ["ActorCriticConfig", "AnnotationConfig", "EnvironmentConfig", "InferenceConfig", "IntrinsicConfig"]

Component = dict[str, Any]


@dataclass(kw_only=True)
class EnvironmentConfig:
    """What a decision policy acts in. L lanes: environment instances, each with its own sequence of episodes."""

    backend: Component = field(default_factory=dict)
    """gymnasium | envpool | "module:function"; see `python launch.py list environments`."""
    captions: Component = field(default_factory=lambda: {"target": "none"})
    """What turns steps into text, see `python launch.py list captions`."""
    lanes: int = 32
    """Environment instances over all workers. Part of the run's identity: a lane is one sequence of episodes."""
    fragment_length: int = 32
    """Steps of one lane that travel and are trained together."""
    fragments_per_update: int = 32
    success_return: float | None = None
    """An episode of at least this extrinsic return counts as a success, where the environment does not say itself."""
    halves: int = 1
    """2: half of a worker's lanes step while the other half waits for actions (backends that step by themselves)."""
    step_deadline_s: float = 60.0
    """Longest that a worker's environments may take for one step of them all, or a reset; then it is replaced."""
    eval_episodes: int = 100
    """Episodes of one evaluation; 0 evaluates never."""
    eval_greedy: bool = False
    """Evaluate the most probable actions instead of sampled ones."""

    def __post_init__(self) -> None:
        for name in ("lanes", "fragment_length", "fragments_per_update"):
            require(getattr(self, name) >= 1, f"environment.{name}", getattr(self, name), "be >= 1", "32 is usual")
        key, deadline_s = "environment.step_deadline_s", self.step_deadline_s
        require(deadline_s > 0, key, deadline_s, "be > 0", "60 suits slow games")
        require(self.halves in (1, 2), "environment.halves", self.halves, "be 1 or 2", "1 suits Gymnasium")


@dataclass(kw_only=True)
class InferenceConfig:
    """Where a decision policy's actions are computed."""

    actors: int = 0
    """0: in each rollout worker. More: so many actors hold the policy, and the workers ask them."""
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    """Of one actor; `model.device` says what the policy computes on."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    max_restarts: int = 20
    """Restarts over all actors before the run fails; `cluster.restart_refill_s` gives them back."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)

    def __post_init__(self) -> None:
        require(self.actors >= 0, "rollout.inference.actors", self.actors, "be >= 0", "0 keeps it in the workers")
        if self.actors:
            self.scaling.check_count("rollout.inference.actors", self.actors)


@dataclass(kw_only=True)
class ActorCriticConfig:
    """How a decision policy learns, beside `learner.loss`, its policy loss."""

    gamma: float = 0.99
    """Discount per step."""
    returns: Component = field(default_factory=lambda: {"target": "vtrace"})
    """vtrace | gae: what turns rewards and values into advantages and value targets."""
    value_coefficient: float = 0.5
    value_clip: float | None = None
    """Largest change of a value against the one at the start of the update that the loss rewards; None: no clip."""
    entropy_coefficient: float = 0.01
    normalise_advantages: bool = True
    """Centre and scale the advantages of a minibatch."""
    normalise_observations: bool = False
    """Running mean and variance of float observations; part of the published weights."""
    normalise_returns: bool = False
    """Rewards divided by the running deviation of the discounted return; part of the learner's state."""
    reward_clip: float | None = None
    """Largest magnitude of an extrinsic reward that counts; None: no clip."""
    burn_in: int = 0
    """First steps of a fragment that only bring the memory of a recurrent policy up to date."""
    target_every: int = 1
    """Updates between copies to the target network, for losses that need one."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, "learner.actor_critic.gamma", self.gamma, "lie in [0, 1]", "0.99 is usual")
        for name in ("value_coefficient", "entropy_coefficient", "burn_in"):
            value = getattr(self, name)
            require(value >= 0, f"learner.actor_critic.{name}", value, "be >= 0", "see the presets")
        require(
            self.target_every >= 1, "learner.actor_critic.target_every", self.target_every, "be >= 1", "4 suits IMPACT"
        )


@dataclass(kw_only=True)
class AnnotationConfig:
    """Who labels captions, and how the queue of labels is bounded."""

    annotator: Component = field(default_factory=lambda: {"target": "scripted"})
    """scripted | endpoint | "module:Class"; see `python launch.py list annotators`."""
    annotators: int = 1
    """Members of the pool."""
    batch_size: int = 32
    """Captions (or pairs) of one call."""
    queue: int = 10_000
    """Captions waiting for a label; the oldest are let go."""
    budget: int | None = None
    """Labels after which no more are asked for; None: no end."""
    deadline_s: float = 60.0
    """Of one call."""
    max_abstentions: int = 2
    """Answers without a label after which an item is not asked about again."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    held_out_fraction: float = 0.1
    """Share of labels that no model is fitted to, by a hash of the item; they measure its accuracy."""

    def __post_init__(self) -> None:
        held_out = self.held_out_fraction
        require(0 <= held_out < 1, "exploration.annotation.held_out_fraction", held_out, "lie in [0, 1)", "try 0.1")
        self.scaling.check_count("exploration.annotation.annotators", self.annotators)
        for name in ("batch_size", "queue", "max_abstentions"):
            value = getattr(self, name)
            require(value >= 1, f"exploration.annotation.{name}", value, "be >= 1", "see the presets")


@dataclass(kw_only=True)
class IntrinsicConfig:
    """Total reward of a step: c_ext * extrinsic + c_int * intrinsic / N^k (arXiv:2410.23022)."""

    extrinsic_coefficient: float = 1.0
    """c_ext"""
    intrinsic_coefficient: float = 0.1
    """c_int"""
    count_exponent: float = 3.0
    """k"""
    count_scope: str = "episode"
    """episode | lifetime: where N counts occurrences of a step's caption, this one included"""
    scored_at: str = "learner"
    """learner: by the newest reward model when a batch is read. actor: once, when the fragment arrives."""
    replicas: int = 1
    """Scoring servers."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    deadline_s: float = 5.0
    """Of one scoring call; at the learner, a fragment without a score by then is trained on its extrinsic reward alone,
    and counted."""
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)

    def __post_init__(self) -> None:
        one_of("exploration.count_scope", self.count_scope, ("episode", "lifetime"))
        one_of("exploration.scored_at", self.scored_at, ("learner", "actor"))
        self.scaling.check_count("exploration.replicas", self.replicas)

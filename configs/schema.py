"""The whole configuration, as dataclasses. Defaults live once, in the section's class; a preset states differences.

Components (task sources, programs, rewards, losses, ...) are sections `{target: NAME, argument: value}`
resolved by the table of their package, so a new component needs no change here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.alarms import AlarmsConfig
from configs.cluster import ClusterConfig, LoggingConfig
from configs.decision import EnvironmentConfig, IntrinsicConfig
from configs.errors import one_of, require
from configs.language import BatchConfig, EvalConfig, ModelConfig, TasksConfig, WarmStartConfig
from configs.learning import LearnerConfig, PublishConfig
from configs.rewarding import RewardsConfig
from configs.rollout import RolloutConfig
from configs.stream import BufferConfig, CheckpointConfig, RetentionConfig

__all__ = ["RunConfig"]

Component = dict[str, Any]


@dataclass(kw_only=True)
class RunConfig:
    """One run."""

    name: str = "run"
    """Run folder `<runs_folder>/<name>`."""
    runs_folder: str = "runs"
    seed: int = 0
    mode: str = "async"
    """async | sync. sync generates a batch, trains on it, and only then generates the next."""
    max_staleness: int = 2
    """Largest age of a sample's oldest token, in weight versions, when it is trained on."""
    updates: int = 200
    """Learner updates before the run ends."""
    engine: str = "torch"
    """torch (built in) | vllm, or "module:function" of an engine of your own"""
    engines: dict[str, Component] = field(default_factory=dict)
    """Options of each engine by its name; those of `engine` are used. vllm: any argument of AsyncEngineArgs."""
    resume: bool = False
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """What a decision policy acts in; without a backend the run trains a language policy."""
    policy: Component = field(default_factory=lambda: {"target": "mlp"})
    """Network of a decision policy."""
    intrinsic: str = "none"
    """none | counts | rnd | similarity | retrieval | classification | ranking | "module:Class" of your own"""
    intrinsics: dict[str, Component] = field(default_factory=dict)
    """Options of each intrinsic reward by its name; those of `intrinsic` are used."""
    exploration: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    """How intrinsic rewards are learned and combined with the environment's."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(architecture={"model_type": "qwen3"}))
    tasks: TasksConfig = field(default_factory=TasksConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("async", "sync"))
        is_folder_name = self.name not in ("", ".", "..") and "/" not in self.name
        require(is_folder_name, "name", self.name, "be a folder name", "try name=first-run")
        require(self.max_staleness >= 0, "max_staleness", self.max_staleness, "be >= 0", "0 is on-policy, 2 is usual")
        require(
            self.mode == "async" or self.max_staleness == 0,
            "max_staleness",
            self.max_staleness,
            "be 0 when mode=sync",
            "set max_staleness=0, or mode=async",
        )
        require(self.updates >= 1, "updates", self.updates, "be >= 1", "a smoke test takes 3")
        actors = self.rollout.inference.actors
        rule, remedy = "be 0 without an environment", "a language policy's engine is in its worker"
        require(self.is_decision or not actors, "rollout.inference.actors", actors, rule, remedy)
        if self.is_decision:
            # A fragment is the unit of the stream: a group of one.
            self.batch = BatchConfig(prompts_per_update=self.environment.fragments_per_update, num_generations=1)

    @property
    def is_decision(self) -> bool:
        """Whether the policy acts in environments."""
        return bool(self.environment.backend)

    @property
    def evaluates(self) -> bool:
        """Whether the policy is evaluated beside the run."""
        return bool(self.environment.eval_episodes if self.is_decision else self.eval.tasks)

    @property
    def headline(self) -> str:
        """Name of the evaluation's figure that says how good a policy is."""
        return "return_mean" if self.is_decision else "accuracy"

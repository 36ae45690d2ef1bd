"""The whole configuration, as dataclasses. Defaults live here once; a preset states differences.

Components (task sources, programs, rewards, losses, ...) are sections `{target: NAME, argument: value}`
resolved by the table of their package, so a new component needs no change here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.decision import ActorCriticConfig, EnvironmentConfig, IntrinsicConfig
from configs.errors import one_of, require

__all__ = [
    "BatchConfig",
    "BufferConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "EvalConfig",
    "LearnerConfig",
    "LoggingConfig",
    "ModelConfig",
    "PublishConfig",
    "RetentionConfig",
    "RewardComponentConfig",
    "RewardsConfig",
    "RolloutConfig",
    "RunConfig",
    "TasksConfig",
    "WarmStartConfig",
]

Component = dict[str, Any]


@dataclass(kw_only=True)
class ModelConfig:
    """The policy: a Hugging Face folder, or a tiny architecture made on the spot."""

    path: str | None = None
    """Folder with config.json, weights and tokenizer; None builds `architecture` with random weights."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Fields of a transformers config (`model_type` and sizes), used when `path` is None."""
    characters: str = "0123456789+-*=(), ."
    """Alphabet of the character tokenizer made beside `architecture`."""
    network: str = "auto"
    """auto | native | transformers: native is our Llama/Qwen network, transformers is AutoModelForCausalLM."""
    dtype: str = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        one_of("model.network", self.network, ("auto", "native", "transformers"))
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        require(
            bool(self.path) != bool(self.architecture),
            "model.path",
            self.path,
            "be set exactly when model.architecture is not",
            "add model.architecture={}, or leave the folder out" if self.path else "give a folder or an architecture",
        )


@dataclass(kw_only=True)
class TasksConfig:
    """Where prompts come from."""

    train: Component = field(default_factory=dict)
    """A task source, see `python launch.py list tasks`."""
    held_out_fraction: float = 0.1
    """Share of the task space kept for evaluation; split by a hash of the prompt, so it never overlaps."""
    shuffle: bool = True

    def __post_init__(self) -> None:
        require(
            0 < self.held_out_fraction < 1,
            "tasks.held_out_fraction",
            self.held_out_fraction,
            "lie between 0 and 1",
            "0.1 keeps a tenth for evaluation",
        )


@dataclass(kw_only=True)
class BatchConfig:
    """What one learner update consumes."""

    prompts_per_update: int = 64
    num_generations: int = 8
    """Samples of each prompt: the group size."""

    def __post_init__(self) -> None:
        require(
            self.prompts_per_update >= 1, "batch.prompts_per_update", self.prompts_per_update, "be >= 1", "64 is usual"
        )
        require(self.num_generations >= 1, "batch.num_generations", self.num_generations, "be >= 1", "8 is usual")

    @property
    def samples(self) -> int:
        return self.prompts_per_update * self.num_generations


@dataclass(kw_only=True)
class RolloutConfig:
    """Who generates, and how."""

    workers: int = 1
    slots: int = 64
    """Sequences that one engine decodes side by side. Part of the run's numeric identity."""
    context_length: int = 64
    """Tokens of prompt and completion that a slot can hold."""
    prefill_chunk: int = 16
    """Prompt tokens that one prefill call processes per sequence."""
    program: Component = field(default_factory=lambda: {"target": "single_turn"})
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_completion_length: int = 16
    stop: list[str] = field(default_factory=list)
    threads: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_restarts: int = 20
    """Restarts of one worker before the run fails."""
    message_samples: int = 64
    """Finished samples that a worker collects before it answers the buffer; at most `message_wait_s` long."""
    message_wait_s: float = 0.05
    max_delay_s: float = 0.0
    """Upper end of a random pause before each rollout; for proofs that timing changes nothing."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, "rollout.workers", self.workers, "be >= 1", "start with 1")
        require(
            self.slots >= 16,
            "rollout.slots",
            self.slots,
            "be >= 16 (fewer rows change float32 results)",
            "64 suits a CPU",
        )
        require(
            self.temperature >= 0,
            "rollout.temperature",
            self.temperature,
            "be >= 0",
            "1.0 samples from the policy itself",
        )
        require(0 < self.top_p <= 1, "rollout.top_p", self.top_p, "lie in (0, 1]", "1.0 keeps the whole distribution")
        require(self.top_k >= 0, "rollout.top_k", self.top_k, "be >= 0", "0 keeps the whole vocabulary")
        require(
            1 <= self.max_completion_length < self.context_length,
            "rollout.max_completion_length",
            self.max_completion_length,
            f"lie in [1, rollout.context_length={self.context_length})",
            "raise rollout.context_length or shorten completions",
        )


@dataclass(kw_only=True)
class RewardComponentConfig:
    """One named component of the reward graph and the pool that serves it."""

    component: Component = field(default_factory=dict)
    weight: float = 1.0
    replicas: int = 1
    concurrency: int = 4
    """Calls that one replica works on at a time."""
    batch_size: int = 64
    """Samples per call."""
    deadline_s: float = 10.0
    """For one call, retries excluded."""
    retries: int = 2
    breaker_failures: int = 5
    """Failed calls in a row that open the circuit breaker."""
    breaker_reset_s: float = 5.0
    num_cpus: float = 0.0
    max_restarts: int = 20


@dataclass(kw_only=True)
class RewardsConfig:
    """The reward graph: named components, then one combine."""

    components: dict[str, RewardComponentConfig] = field(default_factory=dict)
    combine: Component = field(default_factory=lambda: {"target": "weighted_sum"})

    def __post_init__(self) -> None:
        for name, c in self.components.items():
            where = f"rewards.components.{name}"
            require(
                bool(c.component), f"{where}.component", c.component, "name a target", "see `launch.py list rewards`"
            )
            require(c.replicas >= 1, f"{where}.replicas", c.replicas, "be >= 1", "start with 1")
            require(c.deadline_s > 0, f"{where}.deadline_s", c.deadline_s, "be > 0", "10 suits rules, 60 suits judges")
            require(c.retries >= 0, f"{where}.retries", c.retries, "be >= 0", "2 is usual")


@dataclass(kw_only=True)
class BufferConfig:
    """What flows: order, staleness, filters, capacity."""

    sampler: Component = field(default_factory=lambda: {"target": "fifo"})
    filters: list[Component] = field(default_factory=list)
    staleness_policy: str = "wait"
    """wait: an update waits while a running sample would exceed the bound. drop: it is dropped and re-dispatched."""
    group_deadline_s: float = 300.0
    """Members still missing this long after a group's first token are failed."""
    max_attempts: int = 5
    """Tries at one slot before it is failed."""
    max_failed_groups: int = 64
    """Groups that may fail, all since the start, before any sample has a reward; then the run stops and says why."""
    max_bytes: int = 1 << 30
    """Payload bytes held before admission pauses."""
    segment_bytes: int = 16 << 20
    """Size at which a segment file is closed and compacted to Parquet."""
    commit_interval_s: float = 0.02
    """Longest time that a row waits for its group commit."""
    fsync: bool = True

    def __post_init__(self) -> None:
        one_of("buffer.staleness_policy", self.staleness_policy, ("wait", "drop"))
        require(self.group_deadline_s > 0, "buffer.group_deadline_s", self.group_deadline_s, "be > 0", "300 is usual")
        require(self.max_attempts >= 1, "buffer.max_attempts", self.max_attempts, "be >= 1", "5 is usual")
        require(
            self.max_failed_groups >= 1,
            "buffer.max_failed_groups",
            self.max_failed_groups,
            "be >= 1",
            "64 tells a broken input from a few bad tasks",
        )


@dataclass(kw_only=True)
class LearnerConfig:
    """Who learns, and how."""

    ranks: int = 1
    learning_rate: float = 3e-4
    schedule: str = "constant"
    """constant | linear | cosine, after `warmup_updates`."""
    warmup_updates: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    advantage: Component = field(default_factory=lambda: {"target": "group_normalised"})
    loss: Component = field(default_factory=lambda: {"target": "clipped_surrogate"})
    beta: float = 0.0
    """Weight of the k3 KL to the reference policy (the weights after the warm start)."""
    num_iterations: int = 1
    """Passes over each batch."""
    minibatches: int = 1
    """Optimiser steps per pass."""
    micro_batch_tokens: int = 8192
    """Tokens of one forward pass, with their padding."""
    packing: str = "auto"
    """padded (rows of about equal length) | varlen (one row of all, in blocks on a GPU) | auto: varlen on a GPU."""
    logits_chunk: int = 8192
    """Token positions whose logits exist at a time."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """Of decision policies: returns, values, entropy, normalisers."""
    max_nonfinite_updates: int = 5
    """Skipped updates in a row before the run stops."""
    threads: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    update_deadline_s: float = 600.0

    def __post_init__(self) -> None:
        require(self.ranks >= 1, "learner.ranks", self.ranks, "be >= 1", "start with 1")
        require(self.learning_rate > 0, "learner.learning_rate", self.learning_rate, "be > 0", "3e-4 suits tiny models")
        require(self.beta >= 0, "learner.beta", self.beta, "be >= 0", "0 leaves the reference model out")
        one_of("learner.schedule", self.schedule, ("constant", "linear", "cosine"))
        one_of("learner.packing", self.packing, ("auto", "padded", "varlen"))


@dataclass(kw_only=True)
class PublishConfig:
    """How new weights reach the engines."""

    backend: str = "shared_memory"
    """shared_memory (same host) | object_store | collective (gloo, NCCL)"""
    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        one_of("publish.backend", self.backend, ("shared_memory", "object_store", "collective"))


@dataclass(kw_only=True)
class EvalConfig:
    """Accuracy on held-out tasks, on a pinned version, while the stream goes on."""

    tasks: int = 512
    every: int = 50
    """Updates between evaluations; 0 evaluates only before and after."""
    temperature: float = 0.0
    deadline_s: float = 300.0


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is kept."""

    every: int = 50
    """Updates between checkpoints; one is always written at the end and on Ctrl-C."""
    keep_last: int = 2
    keep_best: int = 1


@dataclass(kw_only=True)
class RetentionConfig:
    """What is let go of while a run goes on, at each checkpoint; checkpoints have `checkpoint.keep_last`, `keep_best`.

    Never what a resume from any kept checkpoint needs: `checkpoint.keep_best=0` lets go of old ones.
    """

    payload_updates: int | None = None
    """Keep the payloads of the last so many updates; None keeps all, as `replay` needs."""
    ledger_updates: int | None = None
    """Keep the events and scores of the last so many updates, and of older ones the totals; None keeps all."""

    def __post_init__(self) -> None:
        payloads, ledger = self.payload_updates, self.ledger_updates
        for key, count in (("payload_updates", payloads), ("ledger_updates", ledger)):
            require(count is None or count >= 1, f"retention.{key}", count, "be >= 1 or null", "null keeps all")
        require(
            ledger is None or (payloads is not None and payloads <= ledger),
            "retention.ledger_updates",
            ledger,
            f"not be below retention.payload_updates={payloads}, since payloads need their events",
            "raise it, or lower retention.payload_updates",
        )

    @property
    def is_set(self) -> bool:
        return self.payload_updates is not None


@dataclass(kw_only=True)
class WarmStartConfig:
    """Supervised updates on reference answers before RL; 0 updates skips it."""

    updates: int = 0
    target_loss: float = 0.0
    """Nats per token at which the phase ends before `updates`; 0 goes through all of them."""
    examples: int = 20000
    """Distinct training tasks that the phase goes over."""
    batch_size: int = 256
    learning_rate: float = 1e-3
    threads: int = 2


@dataclass(kw_only=True)
class LoggingConfig:
    """What is shown and written."""

    view: str = "auto"
    """auto | live | plain | quiet"""
    tensorboard: bool = True
    wandb_project: str | None = None
    report: bool = True

    def __post_init__(self) -> None:
        one_of("logging.view", self.view, ("auto", "live", "plain", "quiet"))


@dataclass(kw_only=True)
class ClusterConfig:
    """Which Ray cluster, and the deadlines of control calls."""

    address: str | None = None
    """None starts a local cluster; "auto" joins the one of this job; "local" runs in this process, without Ray."""
    num_cpus: int | None = None
    """CPUs of a local cluster; None counts the machine's, at least 4 logical ones."""
    object_store_bytes: int = 512 << 20
    call_deadline_s: float = 60.0
    start_deadline_s: float = 180.0
    heartbeat_s: float = 2.0
    heartbeat_deadline_s: float = 60.0
    progress_deadline_s: float = 300.0
    """Without any progress for this long, the run stops and says what it waits for."""


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

"""Settings of language policies: model, tasks, batches, warm start, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.adapter import AdapterConfig
from configs.errors import one_of, require

__all__ = ["BatchConfig", "EvalConfig", "ModelConfig", "TasksConfig", "WarmStartConfig"]

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
    """Of weights and gradients. A step in bfloat16 keeps 8 bits of a weight, so that small ones are lost (`zero` steps
    a float32 copy); `learner.bf16` multiplies in it and keeps float32."""
    device: str = "cpu"
    trust_remote_code: bool = False
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Small matrices to train and publish in place of all weights (LoRA)."""

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
class EvalConfig:
    """Accuracy on held-out tasks, on a pinned version, while the stream goes on."""

    tasks: int = 512
    every: int = 50
    """Updates between evaluations; 0 evaluates only before and after."""
    component: str = ""
    """The reward component whose value, at least 1, makes a task count as solved; empty: the total, in which
    components that give credit to steps alone have no part."""
    temperature: float = 0.0
    deadline_s: float = 300.0

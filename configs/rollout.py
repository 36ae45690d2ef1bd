"""Settings of the rollout pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.decision import InferenceConfig
from configs.errors import require
from configs.placement import PlacementConfig
from configs.scaling import ScalingConfig

__all__ = ["RolloutConfig"]

Component = dict[str, Any]


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
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """Of decision policies: in the workers, or shared by them."""
    threads: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    """Of one worker; workers may share a GPU: 0.5."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    max_restarts: int = 20
    """Restarts of workers before the run fails; `cluster.restart_refill_s` gives them back."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    message_samples: int = 64
    """Finished samples that a worker collects before it answers the buffer; at most `message_wait_s` long."""
    message_wait_s: float = 0.05
    max_delay_s: float = 0.0
    """Upper end of a random pause before each rollout; for proofs that timing changes nothing."""

    def __post_init__(self) -> None:
        self.scaling.check_count("rollout.workers", self.workers)
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
        rule = "be 0 where workers ask an inference actor: they compute nothing on it"
        remedy = "give rollout.inference.num_gpus instead"
        require(not (self.inference.actors and self.num_gpus), "rollout.num_gpus", self.num_gpus, rule, remedy)

    @property
    def policies(self) -> int:
        """Members that hold the policy and receive its weights, those of `policy_pool`."""
        return self.inference.actors or self.workers

    @property
    def policy_pool(self) -> str:
        return "inference" if self.inference.actors else "rollout"

"""Settings of the learner group and of publication."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.decision import ActorCriticConfig
from configs.errors import one_of, require
from configs.placement import PlacementConfig

__all__ = ["LearnerConfig", "PublishConfig"]

Component = dict[str, Any]


@dataclass(kw_only=True)
class LearnerConfig:
    """Who learns, and how."""

    ranks: int = 1
    backend: Component = field(default_factory=lambda: {"target": "ddp"})
    """ddp | fsdp2 | zero (`stage`: 1, 2, 3): what each rank holds; see `python launch.py list backends`."""
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
    activation_checkpointing: bool = False
    """Keep only the input of each layer for the backward pass, which computes the layer again."""
    bf16: bool = False
    """Multiply in bfloat16; weights, gradients, moments and log-probabilities stay in `model.dtype`."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """Of decision policies: returns, values, entropy, normalisers."""
    max_nonfinite_updates: int = 5
    """Skipped updates in a row before the run stops."""
    threads: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    placement: PlacementConfig = field(default_factory=lambda: PlacementConfig(strategy="strict_pack"))
    """Ranks meet at a loopback address, so they share a node."""
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
    """shared_memory (same host) | object_store | collective (gloo)"""
    bucket_bytes: int = 64 << 20
    """Weights that are gathered and sent at a time; a single tensor may be larger."""
    deadline_s: float = 60.0
    slow_after_s: float = 5.0
    """An engine that is silent for so long is left behind; it gets the newest version when it answers again."""

    def __post_init__(self) -> None:
        one_of("publish.backend", self.backend, ("shared_memory", "object_store", "collective"))
        require(self.bucket_bytes >= 1, "publish.bucket_bytes", self.bucket_bytes, "be >= 1", "64 MiB is usual")
        require(self.slow_after_s > 0, "publish.slow_after_s", self.slow_after_s, "be > 0", "5 is usual")

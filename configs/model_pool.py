"""Settings of the language models that a run serves itself, for judges and annotators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.errors import one_of, require
from configs.placement import PlacementConfig
from configs.scaling import ScalingConfig

__all__ = ["ModelPoolConfig"]


@dataclass(kw_only=True)
class ModelPoolConfig:
    """One pool of `rewards.models`; `endpoint: {model_pool: NAME}` asks it."""

    path: str = ""
    """Hugging Face folder with config.json, weights and a tokenizer, whose chat template is used."""
    engine: str = "vllm"
    """vllm: its own OpenAI-compatible server, without a port | torch (built in): small models; no schemas, no tools"""
    options: dict[str, Any] = field(default_factory=dict)
    """vllm: any argument of `vllm serve` by its name with underscores, such as tensor_parallel_size."""
    replicas: int = 1
    slots: int = 16
    """Requests that one member answers side by side; more wait in line."""
    context_length: int = 4096
    """Tokens of prompt and reply."""
    dtype: str = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False
    threads: int = 1
    """Of one member, on CPUs."""
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    """Of one member."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    max_restarts: int = 20
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    """By hand alone: these pools do not say yet how long requests wait."""

    def check(self, where: str) -> None:
        """Refuse values that cannot work.

        Raises:
          ConfigError: a value breaks its rule.
        """
        require(bool(self.path), f"{where}.path", self.path, "be a model folder", "for example models/judge")
        one_of(f"{where}.engine", self.engine, ("torch", "vllm"))
        one_of(f"{where}.dtype", self.dtype, ("float32", "bfloat16"))
        self.scaling.check_count(f"{where}.replicas", self.replicas)
        for name in ("slots", "context_length", "threads"):
            require(getattr(self, name) >= 1, f"{where}.{name}", getattr(self, name), "be >= 1", "leave it out")
        rule, remedy = "be empty with engine=torch", "remove them, or use engine=vllm"
        require(self.engine == "vllm" or not self.options, f"{where}.options", self.options, rule, remedy)

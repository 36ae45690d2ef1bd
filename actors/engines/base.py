"""The engine contract: requests stream in, finished completions stream out.

An engine is a plain object stepped by its owner. Between two steps the owner may load new weights;
a request in flight goes on, and each of its tokens carries the version that sampled it.

    engine.submit(request)
    while engine.busy:
        for completion in await engine.step(): ...
        engine.load_weights(version, tensors)   # any time between steps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from buffers.trajectory import Sampling

__all__ = ["Completion", "Engine", "EngineStats", "Request", "ScoredSequence"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt to continue."""

    id: str
    tokens: tuple[int, ...]
    sampling: Sampling
    key: int = 0
    """64-bit key of this request's random numbers: same key, weights and prompt, same tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine sampled for a request. N tokens."""

    id: str
    tokens: NDArray[np.int32]
    """[N] including the stop token where one was sampled."""
    logprobs: NDArray[np.float32]
    """[N] nats, of the distribution each token was drawn from (temperature, top-k, top-p applied)."""
    versions: NDArray[np.int64]
    """[N] weights version that sampled each token."""
    finish_reason: str
    """stop | length | abort"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSequence:
    """What `Engine.score` says of one sequence of T tokens."""

    logprobs: NDArray[np.float32]
    """[T] nats, log-probability of each token given those before it at temperature 1; 0 at t = 0."""
    entropy: NDArray[np.float32] | None = None
    """[T] nats, of the distribution each token was compared with."""
    topk_tokens: NDArray[np.int32] | None = None
    """[T, K]"""
    topk_logprobs: NDArray[np.float32] | None = None
    """[T, K]"""
    hidden: NDArray[np.float32] | None = None
    """[T, H] last hidden state."""
    version: int = 0


@dataclass(kw_only=True, slots=True)
class EngineStats:
    """Counters since the engine was built."""

    steps: int = 0
    prefill_tokens: int = 0
    sampled_tokens: int = 0
    weight_loads: int = 0
    busy_s: float = 0.0
    """Seconds spent computing."""
    longest_gap_s: float = 0.0
    """Largest time between two decode steps while a request was in flight."""
    extra: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Implemented by `torch_engine.TorchEngine` and `vllm_engine.VllmEngine`."""

    version: int
    slots: int
    context_length: int
    stats: EngineStats

    @property
    def busy(self) -> bool:
        """True while a request is queued or in flight."""
        ...

    @property
    def free_slots(self) -> int:
        """Requests that could start at the next step."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
          ValueError: prompt plus `max_completion_length` exceeds `context_length`.
        """
        ...

    async def step(self) -> list[Completion]:
        """Let requests advance and return those that finished; soon, also if none has.

        The built-in engine draws one token for each request in flight; vLLM goes on by itself, also between steps.
        """
        ...

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights; every token drawn from now on is theirs, and stamped so.

        Raises:
          ValueError: a name or shape does not fit; nothing is changed then.
        """
        ...

    def abort(self, ids: Sequence[str]) -> list[Completion]:
        """End requests now; return what they had sampled, with finish reason `abort`."""
        ...

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        model: str = "current",
        want: Sequence[str] = ("logprobs",),
        topk: int = 0,
    ) -> list[ScoredSequence]:
        """Score sequences with the weights named by an alias (current, reference, ...) or a version.

        Raises:
          ValueError: the engine does not hold these weights, or cannot give what is wanted.
        """
        ...

    def close(self) -> None:
        """Release threads, processes and memory."""
        ...

"""The records that flow: tasks and units go out to workers, trajectories come back.

Dimensions: T tokens of one trajectory (prompt, tool output and completion together).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.identity import Slot, trajectory_id
from buffers.trail import Trail

__all__ = ["Kind", "Sampling", "Source", "Span", "Status", "Task", "Trajectory", "Unit", "run_lengths"]


class Kind(enum.IntEnum):
    """What a token is. Only SAMPLED tokens carry behaviour log-probabilities."""

    PROMPT = 0
    SAMPLED = 1
    TOOL = 2
    USER = 3


class Source(enum.StrEnum):
    """Where a trajectory comes from."""

    POLICY = "policy"
    EXPERT = "expert"
    SYNTHETIC = "synthetic"


class Status(enum.StrEnum):
    """How a rollout ended."""

    FINISHED = "finished"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. The recorded log-probabilities are of the resulting distribution."""

    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    max_completion_length: int = 16
    """Tokens."""
    stop: tuple[str, ...] = ()
    """Generation ends after the token that completes one of these strings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One problem of a task source."""

    source: str
    index: int
    """Ordinal within its source; the same index is always the same task."""
    prompt: str
    answer: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable; what a verifier needs beside the answer."""
    user: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A leased slot: what a worker is asked to produce."""

    slot: Slot
    attempt: int
    task: Task
    min_version: int
    """The worker starts this unit with weights of at least this version."""
    trail: Trail | None = None
    """Where its lane stands, for a worker that has not been there."""


@dataclass(frozen=True, slots=True)
class Span:
    """A named stretch [start, end) of token positions: a step, a turn or a tool call."""

    kind: str
    start: int
    end: int


@dataclass(kw_only=True, slots=True)
class Trajectory:
    """One finished rollout of a language policy."""

    slot: Slot
    attempt: int
    node: int = 0
    tokens: NDArray[np.int32]
    """[T] prompt, tool output and completion, exactly as the engine saw and sampled them."""
    kinds: NDArray[np.uint8]
    """[T] `Kind` of each token."""
    logprobs: NDArray[np.float32]
    """[T] nats, log mu(token) of the distribution it was drawn from; 0 where not SAMPLED."""
    versions: list[tuple[int, int]]
    """Run lengths (version, count) over the SAMPLED tokens, in order."""
    prompt: str
    completion: str
    """Text of everything after the prompt."""
    answer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    loss_mask: NDArray[np.bool_] | None = None
    """[T] tokens that the loss counts; None means the SAMPLED ones."""
    spans: list[Span] = field(default_factory=list)
    finish_reason: str = "stop"
    status: Status = Status.FINISHED
    source: Source = Source.POLICY
    model: str = "policy"
    role: str = "assistant"
    user: str = ""
    episode: int = 0
    turns: int = 1
    tree_id: str = ""
    node_id: int = 0
    parent_id: int = -1
    depth: int = 0
    fork_token: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    started_at: float = 0.0
    """Seconds since the Unix epoch."""
    finished_at: float = 0.0

    @property
    def id(self) -> str:
        return trajectory_id(self.slot, self.attempt, self.node)

    @property
    def oldest_version(self) -> int:
        """Version of the oldest sampled token, or -1 where nothing was sampled."""
        return min((version for version, _ in self.versions), default=-1)

    @property
    def num_sampled(self) -> int:
        return sum(count for _, count in self.versions)


def run_lengths(versions: list[int] | NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the (version, count) runs of a per-token version list."""
    runs: list[tuple[int, int]] = []
    for version in versions:
        if runs and runs[-1][0] == version:
            runs[-1] = (int(version), runs[-1][1] + 1)
        else:
            runs.append((int(version), 1))
    return runs

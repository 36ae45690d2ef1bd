"""What a reward says: a value, whether it may be trusted, and where it comes from.

An invalid score has no value. It is never 0: its sample leaves the group's baseline and the loss.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from buffers.trajectory import Span
from configs.schema import RunConfig

__all__ = [
    "ENVIRONMENT",
    "INTRINSIC",
    "Sample",
    "Score",
    "ScoreStatus",
    "StepRewards",
    "component_names",
    "valid_vector",
]

ENVIRONMENT = "environment"
"""Component that every decision run has: the return of a fragment."""
INTRINSIC = "intrinsic"
"""Component of `RunConfig.intrinsic`; of a fragment its vector has one reward for each step."""


class ScoreStatus(enum.StrEnum):
    """`ok` alone carries a value."""

    OK = "ok"
    TIMEOUT = "timeout"
    ERROR = "error"
    ABSTAINED = "abstained"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What a reward component is given of one trajectory."""

    id: str
    group: str
    prompt: str
    completion: str
    answer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    num_tokens: int = 0
    """Sampled tokens."""
    finish_reason: str = "stop"
    spans: tuple[Span, ...] = ()
    user: str = ""
    tokens: tuple[int, ...] = ()
    """All tokens; filled only for components whose `needs` contains "tokens"."""
    logprobs: tuple[float, ...] = ()
    """[T] nats of the policy, each by the version that sampled the token, 0 where not sampled; only with "logprobs"
    in `needs`."""
    captions: tuple[str, ...] = ()
    """[T] what each step of a fragment led to, or the completion of a text; only with "captions" in `needs`."""
    observations: bytes = b""
    """[T + 1, ...] of a fragment, see `EnvironmentSpec.decode`; only with "observations" in `needs`."""


class StepRewards(NamedTuple):
    """What the steps of one trajectory are worth, each at its end; K steps in the order of their ends."""

    ends: tuple[int, ...]
    """[K] token positions, exclusive, ascending."""
    values: tuple[float, ...]
    """[K] reward units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The verdict of one component on one sample."""

    status: ScoreStatus = ScoreStatus.OK
    value: float | None = None
    """Reward units; None unless the status is ok."""
    vector: tuple[float, ...] = ()
    """Several objectives or an embedding."""
    span_values: tuple[float, ...] = ()
    """One value for each of `spans`: step or token rewards, each given at the end of its span."""
    spans: tuple[Span, ...] = ()
    detail: str = ""
    """Why the score is not ok, or evidence."""
    component: str = ""
    version: int = 0
    """Version of the model or rubric that scored."""
    attempt: int = 0
    latency_s: float = 0.0
    paused: bool = False
    """Nobody was asked, since a budget is used up; asked again later, the same sample may get a value."""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.status is ScoreStatus.OK):
            raise ValueError(f"a score is ok exactly when it has a value, got {self.status} with {self.value}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score's value must be finite, got {self.value}")

    @classmethod
    def invalid(cls, status: ScoreStatus, detail: str, **fields: Any) -> Score:
        """Return a score without a value."""
        return cls(status=status, detail=detail, **fields)


def component_names(config: RunConfig) -> list[str]:
    """Return the components that score every trained trajectory of a run."""
    own = [ENVIRONMENT] * config.is_decision + [INTRINSIC] * (config.intrinsic != "none")
    return [*config.rewards.components, *own]


def valid_vector(score: Score | None) -> tuple[float, ...] | None:
    """Return the vector of a score, None where there is no valid one."""
    return score.vector if score is not None and score.status is ScoreStatus.OK else None

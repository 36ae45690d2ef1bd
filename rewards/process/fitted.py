"""What process reward models that train beside the policy have in common: settings, versions, a fit made late."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

from buffers.scores import Sample, Score, ScoreStatus
from configs.registry import construct
from rewards.online.base import OnlineComponent
from rewards.online.tensors import State
from rewards.process import STEPS
from rewards.process.fit import Fit
from rewards.process.hosted import HostedModel
from rewards.process.steps import Splitter
from rewards.reference import Reference

__all__ = ["FittedReward"]

FitT = TypeVar("FitT", bound=Fit[Any, Any])


@dataclass(kw_only=True)
class FittedReward(OnlineComponent, Generic[FitT]):
    """Base of rewards whose network is fitted to what another component says of whole samples.

    A subclass gives `place`, `score`, `lessons`, `update` and `make_fit`.
    """

    scope: ClassVar[str] = "group"  # one call, one version
    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "reference"})
    place: ClassVar[str]
    """Its name in YAML, for messages."""

    after: Sequence[str]
    """The one component that says which samples are right, for instance [correct]."""
    model: str | None = None
    """Folder of the network that it begins with; None: the policy before its first update."""
    learning_rate: float
    batch_size: int = 64
    max_grad_norm: float
    steps: Any
    """tokens | lines | tags | turns | {target: pattern, pattern: ...}"""
    when: str = "batch"
    device: str = "cpu"
    seed: int = 0
    reference: Reference = field(default_factory=lambda: Reference(None))
    split: Splitter = field(init=False, repr=False)
    origin: HostedModel = field(init=False, repr=False)
    fit: FitT | None = field(init=False, repr=False, default=None)
    """Made with version 1: while a run starts there may be no model yet."""

    def __post_init__(self) -> None:
        if isinstance(self.after, str) or len(self.after) != 1:
            raise ValueError(f"after is {self.after!r}; it must name one component, for instance [correct]")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be >= 1; 64 is usual")
        self.split = construct(STEPS, self.steps, f"{self.place}.steps")
        self.origin = HostedModel(self.model, self.device) if self.model else self.reference.model

    def make_fit(self) -> FitT:
        """Return what learns, as it is before its first lesson."""
        raise TypeError(f"{type(self).__name__} does not implement make_fit()")

    def _fit(self) -> FitT:
        """Return what learns, made when it is first wanted."""
        if self.fit is None:
            self.fit = self.make_fit()
        return self.fit

    def outcome(self, sample: Sample) -> float | None:
        """Return what the component named in `after` found; None where it found nothing."""
        found: float | None = sample.metadata.get("scores", {}).get(self.after[0])
        return found

    def abstained(self, sample: Sample) -> Score:
        """Return the score of a sample without a sampled token."""
        return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no sampled token", version=self.version)

    def state(self) -> State:
        return self._fit().state()

    def training_state(self) -> State:
        return self._fit().training_state()

    def load(self, version: int, state: State) -> None:
        self._fit().load(state)
        self.version = version

    def at(self, version: int, state: State) -> Self:
        other = copy.copy(self)  # shares the network it begins with
        other.fit = None
        other.load(version, state)
        return other

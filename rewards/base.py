"""The reward contract: a plain class with `score(samples) -> list[Score]`.

A component declares what it looks at (`scope`), what it wants filled in (`needs`), which other
components must have spoken before (`after`) and when it runs (`when`). It never sees Ray, retries,
deadlines or batching: the `RewardServer` that hosts it adds those.

    @dataclass(frozen=True, kw_only=True)
    class LengthPenalty(Component):
        target_tokens: int
        def score(self, samples):
            return [Score(value=min(0.0, 1.0 - s.num_tokens / self.target_tokens)) for s in samples]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from buffers.scores import Sample, Score

__all__ = ["Component", "Learned", "Warm"]


class Component:
    """Base of reward components; subclasses are usually frozen dataclasses whose fields are YAML keys."""

    scope: ClassVar[str] = "sample"
    """sample | group | pair | batch: what must be scored together in one call."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Optional inputs: "tokens", "reference", ..."""
    after: ClassVar[frozenset[str]] = frozenset()
    """Names of components whose scores this one reads."""
    when: ClassVar[str] = "arrival"
    """arrival: once, when generated. batch: again, whenever a learner batch is read."""

    def score(self, samples: Sequence[Sample]) -> Sequence[Score]:
        """Return one score per sample, in order; may be a coroutine function.

        An exception makes the whole call an `error`; a non-finite value cannot be constructed.
        """
        raise TypeError(f"{type(self).__name__} does not implement score(samples)")


@runtime_checkable
class Learned(Protocol):
    """A component that learns online, beside `score`."""

    version: int

    def update(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
        """Learn from ledger rows; return metrics and raise `version`."""
        ...

    def state(self) -> dict[str, Any]:
        """Return arrays and numbers that `load` restores exactly."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


@runtime_checkable
class Warm(Protocol):
    """A component that has something to start before its first call, beside `score`."""

    def warm(self, concurrency: int) -> None:
        """Get ready for `concurrency` calls at a time; runs once, in a worker thread, before any deadline."""
        ...

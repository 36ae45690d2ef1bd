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

from collections.abc import Collection, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from buffers.scores import Sample, Score

__all__ = ["Closing", "Component", "Sandboxed", "Versioned", "Warm"]


class Component:
    """Base of reward components; subclasses are usually frozen dataclasses whose fields are YAML keys."""

    scope: ClassVar[str] = "sample"
    """What must be scored together in one call: sample | group | pair (two samples of a group; one that is alone
    comes alone) | batch."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Optional fields of `Sample` to fill in: "tokens", "logprobs", "captions", "observations".
    "policy" and "reference" instead give the component a parameter of that name, see `rewards.policy.Policy` and
    `rewards.reference.Reference`."""
    # A component that has these two as fields leaves the choice to its section.
    after: Collection[str] = frozenset()
    """Names of components whose scores this one reads."""
    when: str = "arrival"
    """arrival: once, when generated. batch: again, whenever a learner batch is read."""

    def score(self, samples: Sequence[Sample]) -> Sequence[Score]:
        """Return one score per sample, in order; may be a coroutine function.

        An exception makes the whole call an `error`; a non-finite value cannot be constructed.
        """
        raise TypeError(f"{type(self).__name__} does not implement score(samples)")


@runtime_checkable
class Versioned(Protocol):
    """A component whose model or rubric has a version, beside `score`; it is stamped on scores that name none."""

    @property
    def version(self) -> int:
        """The one that scores now."""
        ...


@runtime_checkable
class Sandboxed(Protocol):
    """A component that hands what a model wrote to programs, beside `score`."""

    def require_containment(self) -> None:
        """Return if this machine contains what it runs.

        Raises:
          SandboxError: it does not; says what got out, and what to do.
        """
        ...


@runtime_checkable
class Warm(Protocol):
    """A component that has something to start before its first call, beside `score`."""

    def warm(self, concurrency: int) -> None:
        """Get ready for `concurrency` calls at a time; runs once, in a worker thread, before any deadline."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A component that holds something to the end, such as connections, beside `score`."""

    async def close(self) -> None:
        """Let it go; no call is under way, and none will follow."""
        ...

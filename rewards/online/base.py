"""A reward component that learns from what it scored: a plain object, the same in learner and server.

version 0 --update(lessons)--> version 1 --update--> ...     in the one process that learns
             `state()`  |                    |
a server <---- load ----'  <-----------------'               in every process that scores
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from buffers.scores import Sample, Score
from configs.rewarding import RewardComponentConfig
from configs.schema import RunConfig
from rewards import component_class
from rewards.base import Component
from rewards.endpoints.models import Models
from rewards.online.tensors import State
from rewards.reference import Reference, reference_folder

__all__ = ["LESSONS", "Lessons", "OnlineComponent", "component_folder", "dependencies", "is_online", "learner_pool"]

LESSONS = 4096
"""That wait to be learned from; beyond it the oldest are let go."""


class OnlineComponent(Component):
    """Base of components that train in an actor of their own; usually scored with `when: batch`.

    Dependencies are filled in by name: `reference`, the policy before its first update, and
    `update_deadline_s`, within which an update must be made. `score` may be a coroutine function.
    """

    version: int = 0
    """Counts what it has been."""
    kept_versions: ClassVar[int | None] = 2
    """On disk; the older one is for the day on which the newer one is damaged. None: all."""

    def lessons(self, samples: Sequence[Sample], scores: Sequence[Score]) -> list[Any]:
        """Return what there is to learn from the samples of one call and the scores that they were given."""
        raise TypeError(f"{type(self).__name__} does not implement lessons(samples, scores)")

    def update(self, lessons: Sequence[Any]) -> dict[str, float] | Awaitable[dict[str, float]]:
        """Learn and return metrics; may be a coroutine function, and then must not block.

        Raises `version` by one where what scores has changed, and leaves it otherwise.
        """
        raise TypeError(f"{type(self).__name__} does not implement update(lessons)")

    def state(self) -> State:
        """Return what `score` depends on, and is not in the folders that it began with."""
        raise TypeError(f"{type(self).__name__} does not implement state()")

    def training_state(self) -> State:
        """Return what, beside `state`, only learning goes on from: the optimiser."""
        return {}

    def load(self, version: int, state: State) -> None:
        """Become a version: what `state` returned, and `training_state` where learning is to go on."""
        raise TypeError(f"{type(self).__name__} does not implement load(version, state)")

    def at(self, version: int, state: State) -> Self:
        """Return another component that is this one at a version; calls of this one go on undisturbed."""
        raise TypeError(f"{type(self).__name__} does not implement at(version, state)")


@dataclass(kw_only=True, slots=True)
class Lessons:
    """A message to the learner: the newest lessons of one sender, in order."""

    items: list[Any] = field(default_factory=list)
    sender: str = ""
    end: int = 0
    """How many lessons the sender has had by the last of these, so that one that comes twice is known."""

    def __len__(self) -> int:
        return len(self.items)

    def followed_by(self, newer: Lessons) -> Lessons:
        """Return both as one message."""
        end = max(self.end, newer.end)
        return Lessons(items=self.items + newer.items, sender=newer.sender or self.sender, end=end)

    def after(self, taken: int) -> Lessons:
        """Return what is beyond the first `taken` lessons of the sender."""
        return replace(self, items=self.items[max(0, len(self.items) - max(0, self.end - taken)) :])

    def trim(self) -> int:
        """Let go of the oldest beyond LESSONS; return how many."""
        surplus = max(0, len(self.items) - LESSONS)
        del self.items[:surplus]
        return surplus


def is_online(section: RewardComponentConfig, name: str) -> bool:
    """Return whether the component `name` trains in an actor of its own."""
    return issubclass(component_class(name, section), OnlineComponent)


def learner_pool(name: str) -> str:
    """Return the pool of the learner of a component."""
    return f"reward_learner.{name}"


def component_folder(run_folder: Path, name: str) -> Path:
    """Return where the versions of a component are stored."""
    return Path(run_folder) / "rewards" / name


def dependencies(config: RunConfig, run_folder: Path, models: Models) -> dict[str, Any]:
    """Return what is filled in by name in a component that learns."""
    return {
        "reference": Reference(reference_folder(config, run_folder)),
        "update_deadline_s": config.learner.update_deadline_s,
        "model_pools": models,
    }

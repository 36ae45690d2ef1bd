"""What an intrinsic reward is: a plain object that scores what agents met, and may learn from it.

    version 0 --update(evidence)--> version 1 --update--> ...     in the one process that learns
                  `state()`   |                    |
    a scorer  <---- load -----'  <-----------------'              in every process that scores

Whatever a value depends on (weights, tables, the normaliser) is in the state, so all readers of one
version agree to the last bit. The reward of an empty caption is 0 by definition: it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from numpy.typing import NDArray

from buffers.environment_spec import EnvironmentSpec, Observations
from rewards.intrinsic.labels import Item
from rewards.online.tensors import State

__all__ = ["Evidence", "Example", "IntrinsicModel", "after_steps"]

Example = tuple[Item, float]
"""An item and the value of its label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What there is to learn from."""

    labels: Sequence[Example] = ()
    """All so far, oldest first, but those held out."""
    held_out: Sequence[Example] = ()
    """Labels kept back to measure what a model makes of captions that it was never told about."""
    captions: Mapping[str, int] = field(default_factory=dict)
    """Captions met since the last update, and how often."""
    observations: Sequence[Observations] = ()
    """Fragments met since the last update, each [T, *shape]: what T steps led to."""


class IntrinsicModel:
    """Base of intrinsic rewards; a subclass's constructor arguments are the keys of its section.

    Dependencies are filled in by name: `seed`, and `spec`, the EnvironmentSpec.
    """

    needs: ClassVar[str] = "captions"
    """captions | observations: what `score` takes."""
    asks: ClassVar[int] = 0
    """Captions of an item to be labelled: 0 asks nobody, 1 single captions, 2 pairs."""
    learns: ClassVar[bool] = False
    """Whether `update` makes new versions."""
    version: int = 0
    """Counts updates; 0 has learned nothing, and each class says what it then scores."""

    def score(self, inputs: Any) -> NDArray[Any]:
        """Return [n] float64 rewards of this version; NaN abstains.

        Args:
          inputs: n texts, none of them empty, or observations [n, *shape].
        """
        raise TypeError(f"{type(self).__name__} does not implement score(inputs)")

    def update(self, evidence: Evidence) -> dict[str, float]:
        """Learn, raise `version` by one and return metrics."""
        raise TypeError(f"{type(self).__name__} does not learn")

    def state(self) -> State:
        """Return what `score` depends on."""
        return {}

    def training_state(self) -> State:
        """Return what, beside `state`, only learning goes on from: the optimiser, random numbers."""
        return {}

    def load(self, version: int, state: State) -> None:
        """Become a version: what `state` returned, and `training_state` where learning is to go on."""
        self.version = version


def after_steps(spec: EnvironmentSpec, data: bytes) -> Observations:
    """Return what each step of an encoded fragment led to, [T, *shape].

    After the last step of an episode that is the first observation of the next one.

    Raises:
      DataError: the bytes are not of this environment.
    """
    steps = len(data) // spec.step_bytes
    return {name: array[1:] for name, array in spec.decode(data, steps).items()}

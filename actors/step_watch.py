"""How long the environments of a worker have kept it, as seen from another thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.environments.base import Lanes
from configs.errors import DeadlineExceeded

__all__ = ["StepWatch"]


class StepWatch:
    """A context around every call of the environments.

    Nothing in this process can end a call that never returns, so it ends with the process: heartbeats, which have
    a thread of their own (`MemberSpec.own_pulse`), ask here, and the supervisor replaces a worker that fails one.
    """

    def __init__(self, lanes: Lanes, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes, self._deadline_s, self._clock = lanes, deadline_s, clock
        self._entered: float | None = None

    def __enter__(self) -> None:
        self._entered = self._clock()

    def __exit__(self, *_: object) -> None:
        self._entered = None

    def check(self) -> None:
        """Let the present call go on.

        Raises:
          DeadlineExceeded: it has taken too long; the message names the environment and its place.
        """
        entered = self._entered
        taken = 0.0 if entered is None else self._clock() - entered
        if taken > self._deadline_s:
            raise DeadlineExceeded(
                f"{self._lanes.spec.name} hangs at {self._lanes.under_way()}: no answer for {taken:.0f} s "
                f"(environment.step_deadline_s={self._deadline_s:g}); mend the environment, or raise the deadline"
            )

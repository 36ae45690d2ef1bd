"""The sandbox as verifiers use it: programs from any thread, in as many zygotes as run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from buffers.scores import Score, ScoreStatus
from rewards.sandbox.client import ZygoteClient
from rewards.sandbox.probe import require_containment
from rewards.sandbox.program import End, Order, Outcome, SandboxError

__all__ = ["Sandbox"]


class Sandbox:
    """Idle zygotes of one target; grows to the number of threads that ask at the same time."""

    def __init__(self, order: Order) -> None:
        """Describe the sandbox; nothing starts before `warm` or `run`."""
        self._order = order
        self._idle: list[ZygoteClient] = []
        self._lock = threading.Lock()

    def require_containment(self) -> None:
        """Return if hostile programs are contained here, see `probe.require_containment`."""
        require_containment(self._order.scratch_bytes)

    def warm(self, count: int) -> None:
        """Start zygotes until `count` are idle, and return once all are ready.

        Raises:
          SandboxError: this machine cannot confine programs, or the target cannot be imported.
        """
        self.require_containment()
        zygotes = [ZygoteClient(self._order) for _ in range(count - len(self._idle))]
        for zygote in zygotes:  # they import side by side, whoever is waited for
            zygote.wait_ready()
        with self._lock:
            self._idle += zygotes

    def run(self, item: Mapping[str, Any], deadline_s: float, *, text: bytes = b"") -> Outcome:
        """Return what became of one program, see `ZygoteClient.run`.

        Raises:
          SandboxError: there is no outcome, for a reason that is not the program's.
        """
        with self._lock:
            zygote = self._idle.pop() if self._idle else None
        if zygote is None:
            self.require_containment()
            zygote = ZygoteClient(self._order)
        try:
            outcome = zygote.run(item, deadline_s, text)
        except BaseException:
            zygote.close()
            raise
        if self._order.scratch_bytes:  # the folder goes with its zygote
            zygote.close()
            return outcome
        with self._lock:
            self._idle.append(zygote)
        return outcome

    def judge(self, item: Mapping[str, Any], deadline_s: float) -> Score:
        """Return the verdict of a target that answers `{"value": x}`, `{"abstained": why}` or `{"error": why}`.

        Only for functions that are trusted with the verdict: what a model wrote is data to them, and at worst
        hangs or crashes them. A program that may say anything is judged outside, by its `Outcome`.
        """
        try:
            return _score(self.run(item, deadline_s), deadline_s)
        except SandboxError as error:
            return Score.invalid(ScoreStatus.ERROR, str(error))

    def close(self) -> None:
        """End the idle zygotes."""
        with self._lock:
            zygotes, self._idle = self._idle, []
        for zygote in zygotes:
            zygote.close()


def _score(outcome: Outcome, deadline_s: float) -> Score:
    if outcome.end is End.DEADLINE:
        return Score.invalid(ScoreStatus.TIMEOUT, f"no verdict within {deadline_s:g} s; it was killed")
    answer = outcome.reply if isinstance(outcome.reply, dict) else {}
    if "value" in answer:
        return Score(value=float(answer["value"]))
    if "abstained" in answer:
        return Score.invalid(ScoreStatus.ABSTAINED, answer["abstained"])
    why = answer.get("error") or f"it ended with status {outcome.code}: {outcome.errors.strip()[-300:]}"
    return Score.invalid(ScoreStatus.ERROR, why)

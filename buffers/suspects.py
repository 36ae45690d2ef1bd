"""Which slots may be what kills workers: how they are told from those that died along with them.

When a worker dies, each slot that it held is a suspect, in company with the others. Suspects are dispatched again
in ever smaller company, so that the worker's next deaths say more: of n slots and k deaths allowed, n ** (1/2)
together after the first of k = 3, and each alone after the second. Only a slot that was alone with its worker in the
last of its k deaths is poison; no bystander can be, whatever it was dispatched with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from buffers.identity import Slot

__all__ = ["Kill", "Suspects", "company"]


def company(held: int, kills: int, most: int) -> int:
    """Return how many suspects may be together after `kills` deaths, the last one of a worker that held `held`.

    The number falls by equal factors, to one in the last death of `most`.
    """
    left = max(1, most - kills)
    return max(1, math.ceil(held ** ((left - 1) / left) - 1e-9))


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """A worker died that held a slot."""

    worker: str
    attempt: int
    """Of the slot."""
    held: int
    """Slots that the worker held."""
    time: float
    """Seconds since the Unix epoch."""
    exit: str
    """What is known of its end."""


@dataclass
class _Suspect:
    kills: list[Kill] = field(default_factory=list)
    company: int = 1


class Suspects:
    """Slots that workers died of, perhaps; those that come back are cleared."""

    def __init__(self, most: int) -> None:
        """Know nothing yet; `most` deaths, the last one alone, make a slot poison."""
        self._most = most
        self._suspects: dict[Slot, _Suspect] = {}
        self._reserved = ""
        """The worker that takes suspects alone while any waits: it would never have little enough to do."""

    def __len__(self) -> int:
        return len(self._suspects)

    def __contains__(self, slot: object) -> bool:
        return slot in self._suspects

    def blame(self, slots: Collection[tuple[Slot, int]], worker: str, time: float, exit: str) -> list[Slot]:
        """A worker died that held these (slot, attempt); return the slots that are poison."""
        found = []
        for slot, attempt in slots:
            suspect = self._suspects.setdefault(slot, _Suspect())
            suspect.kills.append(Kill(worker=worker, attempt=attempt, held=len(slots), time=time, exit=exit))
            suspect.company = company(len(slots), len(suspect.kills), self._most)
            if len(suspect.kills) >= self._most and len(slots) == 1:
                found.append(slot)
        if self._reserved == worker:
            self._reserved = ""
        return found

    def evidence(self, slot: Slot) -> list[dict[str, Any]]:
        """Return the deaths that a slot was in, as JSON has them."""
        return [asdict(kill) for kill in self._suspects[slot].kills] if slot in self._suspects else []

    def clear(self, slot: Slot) -> None:
        """It came back, or was given up: it kills no more."""
        self._suspects.pop(slot, None)

    def may_join(self, slot: Slot, held: Iterable[Slot], worker: str) -> bool:
        """Return whether a worker that holds some slots may take one more."""
        if not self._suspects:
            return True
        together = [*held, slot]
        limits = [self._suspects[each].company for each in together if each in self._suspects]
        is_free = slot in self._suspects or worker != self._reserved
        return is_free and len(together) <= min(limits, default=len(together))

    def reserve(self, worker: str, waiting: Iterable[Slot], present: Collection[str]) -> None:
        """A worker asks for slots: where suspects wait and nobody is reserved for them, it is from now on.

        Args:
          waiting: slots that it may take.
          present: workers that hold something, or ask.
        """
        has_suspects = any(slot in self._suspects for slot in waiting)
        if has_suspects and self._reserved not in present:
            self._reserved = worker
        elif not has_suspects and self._reserved == worker:
            self._reserved = ""

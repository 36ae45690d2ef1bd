"""How often the members of a pool may be replaced, and how long each replacement waits."""

from __future__ import annotations

__all__ = ["RestartBudget"]

FIRST_S, LONGEST_S = 0.1, 10.0


class RestartBudget:
    """So many restarts, refilled one by one: faults that are rare enough never end a run."""

    def __init__(self, most: int, refill_s: float) -> None:
        """Begin with the whole budget.

        Args:
          refill_s: seconds in which one used restart comes back.
        """
        self.made = 0
        """Restarts since the start."""
        self._most, self._refill_s = most, refill_s
        self._used, self._since = 0.0, 0.0

    def used(self, now: float) -> float:
        """Return how much of the budget is used up; in [0, most]."""
        self._used = max(0.0, self._used - max(0.0, now - self._since) / self._refill_s)
        self._since = now
        return self._used

    def give_back(self) -> None:
        """Undo the last `take`: there was nothing to restart on."""
        self._used, self.made = max(0.0, self._used - 1), self.made - 1

    def take(self, now: float) -> float | None:
        """Use one restart; return the seconds to wait before it, or None where none is left.

        The wait doubles with each restart that has not come back yet.
        """
        used = self.used(now)
        if used + 1 > self._most:
            return None
        self._used, self.made = used + 1, self.made + 1
        return float(min(FIRST_S * 2 ** min(used, 20.0), LONGEST_S))

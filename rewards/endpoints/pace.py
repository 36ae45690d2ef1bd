"""How fast an endpoint is asked: a token bucket that can also be held shut for a while."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Pace", "retry_after_s"]

BURST_S = 1.0
"""Turns of this many seconds may be saved up."""


class Pace:
    """Gives turns: `per_s` a second in the long run, after a pause up to one second's worth at once."""

    def __init__(self, per_s: float | None) -> None:
        """None: as many as are asked for."""
        self._interval_s = 1 / per_s if per_s else 0.0
        self._due = float("-inf")  # loop time at which the bucket was last full, plus what was taken since
        self._shut_until = float("-inf")

    async def turn(self) -> None:
        """Wait for a turn; who is cancelled meanwhile has used it up."""
        loop = asyncio.get_running_loop()
        spare_s = max(0.0, BURST_S - self._interval_s)
        at = max(self._due, loop.time() - spare_s)
        self._due = at + self._interval_s
        # `hold` may be called while this waits.
        while (wait_s := max(at, self._shut_until) - loop.time()) > 0:
            await asyncio.sleep(wait_s)

    def hold(self, seconds: float) -> None:
        """Give no turn for so long from now."""
        self._shut_until = max(self._shut_until, asyncio.get_running_loop().time() + seconds)


def retry_after_s(header: str | None, now: datetime | None = None) -> float:
    """Return the seconds that a Retry-After header asks for, 0 where there is none that can be read.

    Source: RFC 9110 section 10.2.3: a number of seconds, or a date.
    """
    text = (header or "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())

"""Requests to one HTTP endpoint that may be slow, overloaded, broken or hostile.

post(body, until) -> slot -> turn -> request -> answer, or a failure that says why there is none
                      |        '--<-- pause --<-- failed, and worth another try

X waits for              at most               woken by
a request, for a slot    `until`               a request that ends
a slot, for its turn     `until`               the rate limit, or the end of what Retry-After asked for
a try, for its reply     request_deadline_s    the endpoint; then the try has failed
a retry, for its turn    `until`               its back-off
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import aiohttp

from buffers.scores import ScoreStatus
from rewards.answers import Failure
from rewards.intrinsic.annotators.pace import Pace, retry_after_s

__all__ = ["Client", "Limits"]

MAX_RESPONSE_BYTES = 1 << 20
"""More than any reply that was asked for; the rest is not read."""
MAX_BACKOFF_S = 30.0
MAX_HOLD_S = 300.0
"""That Retry-After can keep us away before we ask again, whatever it says."""
WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
"""Beside 500 and above: what a server answers that may answer otherwise a little later."""
QUOTE_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an endpoint is spared, and what we are."""

    concurrency: int
    """Requests at a time."""
    requests_per_s: float | None
    request_deadline_s: float
    """Of one try."""
    retries: int
    """Further tries of a request that failed."""
    backoff_s: float
    """Pause before the first of them; doubles with each, times a random factor in [0.5, 1.5]."""


class Client:
    """Posts JSON to one address; never raises for what the other side does."""

    def __init__(self, url: str, key: str, limits: Limits) -> None:
        """Opens nothing yet; `key` is sent as a bearer token, "" sends none."""
        self._url, self._key, self._limits = url, key, limits
        self._rng = random.Random()  # from the system: annotators of one seed must not retry in step
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._pace = Pace(limits.requests_per_s)
        self._session: aiohttp.ClientSession | None = None
        self.counters: Counter[str] = Counter()

    async def post(self, body: dict[str, Any], until: float) -> dict[str, Any] | Failure:
        """Return the JSON object that the endpoint answers, or why there is none by loop time `until`."""
        answer: dict[str, Any] | Failure = Failure(
            ScoreStatus.TIMEOUT, "never asked; concurrency or rate allow no more"
        )
        try:
            async with asyncio.timeout_at(until), self._slots:
                for attempt in range(self._limits.retries + 1):
                    if attempt:
                        self.counters["retries"] += 1
                        await asyncio.sleep(self._pause_s(attempt))
                    await self._pace.turn()
                    answer = await self._try(body)
                    if not isinstance(answer, Failure) or answer.final:
                        break
        except TimeoutError:
            last = answer.detail if isinstance(answer, Failure) else "none"
            return Failure(ScoreStatus.TIMEOUT, f"no reply of {self._url} by the deadline; last: {last}")
        return answer

    async def close(self) -> None:
        """Close all connections; a later `post` opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pause_s(self, attempt: int) -> float:
        return min(MAX_BACKOFF_S, self._limits.backoff_s * 2.0 ** (attempt - 1)) * self._rng.uniform(0.5, 1.5)

    async def _try(self, body: dict[str, Any]) -> dict[str, Any] | Failure:
        self.counters["requests"] += 1
        try:
            async with asyncio.timeout(self._limits.request_deadline_s):
                answer = await self._exchange(body)
        except TimeoutError:
            what = f"{self._url}: no reply within {self._limits.request_deadline_s:g} s"
            answer = Failure(ScoreStatus.TIMEOUT, what)
        except aiohttp.ClientError as error:
            answer = Failure(ScoreStatus.ERROR, f"{self._url}: {type(error).__name__}: {self._quote(str(error))}")
        self.counters["failed_requests"] += isinstance(answer, Failure)
        return answer

    async def _exchange(self, body: dict[str, Any]) -> dict[str, Any] | Failure:
        async with self._opened().post(self._url, json=body, allow_redirects=False) as response:
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    what = f"{self._url}: a reply of more than {MAX_RESPONSE_BYTES} bytes"
                    return Failure(ScoreStatus.ERROR, what, final=True)
            if response.status in (429, 503):
                self._pace.hold(min(MAX_HOLD_S, retry_after_s(response.headers.get("Retry-After"))))
            return self._read(response.status, content)

    def _read(self, status: int, content: bytearray) -> dict[str, Any] | Failure:
        quote = self._quote(content.decode("utf-8", "replace"))
        if status != 200:
            final = status < 500 and status not in WORTH_ANOTHER_TRY
            return Failure(ScoreStatus.ERROR, f"{self._url}: HTTP {status}: {quote}", final=final)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            return Failure(ScoreStatus.ERROR, f"{self._url}: no JSON ({type(error).__name__}): {quote}")
        if not isinstance(answer, dict):
            return Failure(ScoreStatus.ERROR, f"{self._url}: no JSON object: {quote}")
        return answer

    def _quote(self, text: str) -> str:
        """Return the beginning of what the other side said, without the key, which some servers repeat."""
        return repr((text.replace(self._key, "***") if self._key else text)[:QUOTE_CHARACTERS])

    def _opened(self) -> aiohttp.ClientSession:
        # Needs the running loop, so not made in the constructor.
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            headers["Accept-Encoding"] = "identity"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limits.concurrency),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),  # `_try` has its own
                auto_decompress=False,  # a compressed reply could unfold to any size
            )
        return self._session

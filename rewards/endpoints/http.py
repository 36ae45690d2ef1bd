"""One OpenAI-compatible HTTP endpoint that may be slow, overloaded, broken or hostile."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from buffers.scores import ScoreStatus
from rewards.answers import Failure
from rewards.endpoints.pace import retry_after_s
from rewards.endpoints.routes import Reply

__all__ = ["HttpServer"]

MAX_RESPONSE_BYTES = 1 << 20
"""More than any reply that was asked for; the rest is not read."""
WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
"""Beside 500 and above: what a server answers that may answer otherwise a little later."""
BUSY = frozenset({429, 503})
"""What a sound server answers that has too much to do, and may say how long."""
QUOTE_CHARACTERS = 200


class HttpServer:
    """Posts JSON to one address; never raises for what the other side does."""

    def __init__(self, url: str, key: str, connections: int) -> None:
        """Open nothing yet.

        Args:
          key: sent as a bearer token; "" sends none.
        """
        self.name, self._key, self._connections = url, key, connections
        self._session: aiohttp.ClientSession | None = None

    async def send(self, body: dict[str, Any], deadline_s: float) -> Reply:
        """Return the JSON object that the endpoint answers, or why there is none; the caller keeps the deadline."""
        try:
            return await self._exchange(body)
        except aiohttp.ClientError as error:
            what = f"{self.name}: {type(error).__name__}: {self._quote(str(error))}"
            return Reply(Failure(ScoreStatus.ERROR, what), sound=False)

    async def close(self) -> None:
        """Close all connections; a later `send` opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(self, body: dict[str, Any]) -> Reply:
        async with self._opened().post(self.name, json=body, allow_redirects=False) as response:
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    what = f"{self.name}: a reply of more than {MAX_RESPONSE_BYTES} bytes"
                    return Reply(Failure(ScoreStatus.ERROR, what, final=True))
            busy = response.status in BUSY
            answer = self._read(response.status, content)
            broken = isinstance(answer, Failure) and not answer.final
            hold_s = retry_after_s(response.headers.get("Retry-After")) if busy else 0.0
            return Reply(answer, sound=busy or not broken, hold_s=hold_s)

    def _read(self, status: int, content: bytearray) -> dict[str, Any] | Failure:
        quote = self._quote(content.decode("utf-8", "replace"))
        if status != 200:
            final = status < 500 and status not in WORTH_ANOTHER_TRY
            return Failure(ScoreStatus.ERROR, f"{self.name}: HTTP {status}: {quote}", final=final)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            return Failure(ScoreStatus.ERROR, f"{self.name}: no JSON ({type(error).__name__}): {quote}")
        if not isinstance(answer, dict):
            return Failure(ScoreStatus.ERROR, f"{self.name}: no JSON object: {quote}")
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
                connector=aiohttp.TCPConnector(limit=self._connections),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),  # the client has its own
                auto_decompress=False,  # a compressed reply could unfold to any size
            )
        return self._session

"""What a client must not leave behind: tasks, and connections to its endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psutil
import pytest

NOTICED_S = 30.0
"""For a busy machine to let the server's side notice what the client closed."""


def connections(url: str) -> list[str]:
    """Return this process's connections to an address; a server's side of one is among them, if it lives here.

    Those of anyone else do not count: the process has threads that open sockets as they like.
    """
    port, found = urlsplit(url).port, []
    for connection in psutil.Process().net_connections("tcp"):
        ends = [end for end in (connection.laddr, connection.raddr) if end]
        if connection.status != psutil.CONN_LISTEN and port in {end.port for end in ends}:
            found.append(f"{ends} {connection.status}")
    return found


@asynccontextmanager
async def nothing_left(url: str) -> AsyncIterator[None]:
    """Fail a test of which a task or a connection to `url` outlives this context."""
    before = asyncio.all_tasks()
    yield
    left: list[object] = []
    try:
        async with asyncio.timeout(NOTICED_S):
            while left := [*(asyncio.all_tasks() - before), *connections(url)]:
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"left behind after {NOTICED_S:g} s: {left}")

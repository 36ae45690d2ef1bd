"""An OpenAI-compatible server in this process, well-behaved or not: a test says what it does with a request."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class EndpointServer:
    """Remembers the requests it was sent."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        return await self._handler(request, body)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[EndpointServer]:
    """Serve on a free port of this host."""
    server = EndpointServer(handler)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    # A handler that hangs ends when its client gives up, or it would hold up the end of the server.
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def completion(text: Any, **fields: Any) -> dict[str, Any]:
    """Return the JSON of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice], **fields}


def replies(text: Any, **fields: Any) -> Handler:
    """Return a handler that says the same to everybody."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(completion(text, **fields))

    return handler


@contextmanager
def serving_beside(handler: Handler) -> Iterator[EndpointServer]:
    """Serve from a thread, for whoever needs this one."""
    found: queue.Queue[tuple[EndpointServer, asyncio.Event]] = queue.Queue()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        over = asyncio.Event()
        async with serving(handler) as server:
            found.put((server, over))
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    server, over = found.get(timeout=30.0)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30.0)
        loop.close()

"""An endpoint annotator, and the server in this process that it asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from endpoint_server import Handler, serving
from leaks import nothing_left

from rewards.intrinsic.annotators.endpoint import Endpoint
from rewards.intrinsic.labels import Item, Label

__all__ = ["DEADLINE_S", "HELPFUL", "KEY", "WALL", "ask", "endpoint", "one_label"]

KEY, WALL = ("you pick up the red key",), ("you bump into a wall",)
HELPFUL = "<label>MAPLE</label>"
DEADLINE_S = 20.0
"""Far beyond what anything here needs; scenes about deadlines give their own."""


@asynccontextmanager
async def endpoint(url: str, **arguments: Any) -> AsyncIterator[Endpoint]:
    """Open an annotator, and see that it leaves no task and no socket behind."""
    usual = {"model": "judge", "template": "minigrid_classification", "goal": "open the door", "retries": 1}
    annotator = Endpoint(url=url, **{**usual, "backoff_s": 0.01, "deadline_s": DEADLINE_S, **arguments})
    async with nothing_left(url):
        try:
            yield annotator
        finally:
            await annotator.close()


async def ask(handler: Handler, items: list[Item] | None = None, **arguments: Any) -> list[Label]:
    async with serving(handler) as server, endpoint(server.url, **arguments) as annotator:
        return await annotator.annotate([KEY] if items is None else items)


async def one_label(handler: Handler, **arguments: Any) -> Label:
    (label,) = await ask(handler, **arguments)
    return label

"""Judges of endpoints in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web
from endpoint_server import EndpointServer, Handler, completion, replies
from judge_model import quotations
from leaks import nothing_left

from buffers.scores import Sample, Score
from rewards.judges.base import Judge

AnyJudge = TypeVar("AnyJudge", bound=Judge)
DEADLINE_S = 20.0
"""Far beyond what anything here needs; scenes about deadlines give their own."""


def sample(completion: str, *, group: str = "g", id: str = "", prompt: str = "2 + 2?", **fields: Any) -> Sample:
    return Sample(id=id or completion, group=group, prompt=prompt, completion=completion, **fields)


def asked(body: dict[str, Any]) -> str:
    """Return the prompt of a request."""
    text: str = body["messages"][0]["content"]
    return text


@asynccontextmanager
async def judging(
    kind: type[AnyJudge], server: EndpointServer, endpoint: dict[str, Any] | None = None, **arguments: Any
) -> AsyncIterator[AnyJudge]:
    """Open a judge, and see that it leaves no task and no socket behind."""
    section = {"url": server.url, "model": "judge", "retries": 1, "backoff_s": 0.01, **(endpoint or {})}
    judge = kind(**{"endpoint": section, "call_deadline_s": DEADLINE_S, **arguments})
    async with nothing_left(server.url):
        try:
            yield judge
        finally:
            await judge.close()


RIGHT, WRONG = sample("4"), sample("5")
GROUP = [sample(text, id=f"s{i}") for i, text in enumerate(("5", "4", "7", "it is 4"))]


def by_length(prompt: str, answer: str) -> float:
    return min(1.0, len(answer) / 10)


def says(**found: Any) -> Handler:
    """Return a server of which every reply ends with one JSON object."""
    return replies(json.dumps({"reason": "because", **found}))


def answers(answer: dict[str, Any]) -> Handler:
    """Return a server that answers everything with the same JSON."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(answer)

    return handler


def sometimes(handler: Handler, is_broken: Callable[[dict[str, str]], bool], instead: str = "hm") -> Handler:
    """Answer `instead` where a prompt's quotations say so."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if is_broken(quotations(asked(body))):
            return web.json_response(completion(instead))
        return await handler(request, body)

    return answer


def values(scores: Sequence[Score]) -> list[Any]:
    return [score.value for score in scores]

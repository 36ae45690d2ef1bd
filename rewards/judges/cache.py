"""Answers by the content of the question: nothing is asked twice, also not at the same time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["AnswerCache", "content_key", "shuffled"]


class AnswerCache:
    """The `size` answers that were used last."""

    def __init__(self, size: int) -> None:
        """0 keeps nothing."""
        self._size = size
        self._answers: OrderedDict[str, Any] = OrderedDict()
        # A lock lives as long as somebody holds it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def get(self, key: str) -> Any | None:
        """Return the answer, None where there is none."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer; the one that was not used for longest may go."""
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > self._size:
            self._answers.popitem(last=False)

    @asynccontextmanager
    async def turn(self, key: str, until: float) -> AsyncIterator[None]:
        """Let nobody else ask the same: who comes meanwhile finds the answer here.

        Raises:
          TimeoutError: others were still asking at loop time `until`.
        """
        lock = self._turns.get(key) or asyncio.Lock()
        self._turns[key] = lock
        async with asyncio.timeout_at(until):
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()


def content_key(*content: Any) -> str:
    """Return the sha256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=dict).encode()).hexdigest()


def shuffled(count: int, *content: Any) -> list[int]:
    """Return 0 to count - 1 in an order that looks random and depends on JSON values alone."""
    order = list(range(count))
    random.Random(content_key(*content)).shuffle(order)
    return order

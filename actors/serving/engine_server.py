"""A small language model served by the built-in engine: continuous batching, no processes beside the member's own."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from actors.engines.base import Completion, Engine, Request, ScoredSequence
from actors.serving.chat import Asked, answer, read
from configs.errors import RunError

__all__ = ["EngineServer"]

_Answer = tuple[Completion, ScoredSequence | None]

TOO_LATE, BAD_REQUEST = 504, 400
"""What HTTP calls them."""


class _Waiting(NamedTuple):
    asked: Asked
    future: asyncio.Future[_Answer]


class EngineServer:
    """Steps an engine while there are requests, and hands each its completion."""

    def __init__(self, engine: Engine, tokenizer: Any, name: str) -> None:
        """Begin to step; needs a running loop."""
        self._engine, self._tokenizer, self._name = engine, tokenizer, name
        self._waiting: dict[str, _Waiting] = {}
        self._asked = asyncio.Event()
        self._numbers = itertools.count()
        self._stepping = asyncio.get_running_loop().create_task(self._step())

    async def complete(self, path: str, body: dict[str, Any], deadline_s: float) -> tuple[int, dict[str, Any]]:
        """Return (status, JSON), see `member.Serving`."""
        try:
            asked = read(path, body, self._tokenizer)
            async with asyncio.timeout(deadline_s):
                completion, scored = await self._draw(asked, body.get("seed"))
        except (TypeError, ValueError) as error:
            return BAD_REQUEST, {"error": {"message": str(error)}}
        except TimeoutError:
            return TOO_LATE, {"error": {"message": f"{self._name}: not done within {deadline_s:g} s"}}
        return 200, answer(path, self._name, asked, completion, scored, self._tokenizer)

    def check(self) -> None:
        """See that the engine is still stepped.

        Raises:
          RunError: it failed; its cache may hold anything.
        """
        if self._stepping.done() and not self._stepping.cancelled():
            error = self._stepping.exception()
            raise RunError(f"model {self._name} stopped: {error!r}") from error

    async def close(self) -> None:
        """End the engine."""
        self._stepping.cancel()
        self._engine.close()

    async def _draw(self, asked: Asked, seed: Any) -> _Answer:
        self.check()
        name = str(next(self._numbers))
        key = random.getrandbits(63) if seed is None else int(seed)
        self._engine.submit(Request(id=name, tokens=asked.tokens, sampling=asked.sampling, key=key))
        waiting = self._waiting[name] = _Waiting(asked, asyncio.get_running_loop().create_future())
        self._asked.set()
        try:
            return await waiting.future
        finally:
            del self._waiting[name]
            self._engine.abort([name])  # of one who gave up; others have ended

    async def _step(self) -> None:
        try:
            while True:
                if not self._engine.busy:
                    self._asked.clear()
                    await self._asked.wait()
                self._deliver([c for c in await self._engine.step() if c.id in self._waiting])
        except Exception as error:
            for waiting in self._waiting.values():
                if not waiting.future.done():
                    waiting.future.set_exception(RunError(f"model {self._name} stopped: {error!r}"))
            raise

    def _deliver(self, completions: Sequence[Completion]) -> None:
        """Hand over what ended in one step; log-probabilities of all of it in one go, which costs hardly more."""
        ended = [(self._waiting[completion.id], completion) for completion in completions]
        wanted = [(waiting.asked, completion) for waiting, completion in ended if waiting.asked.top_logprobs]
        scores: dict[str, ScoredSequence] = {}
        if wanted:
            whole = [[*asked.tokens, *completion.tokens.tolist()] for asked, completion in wanted]
            most = max(asked.top_logprobs for asked, _ in wanted)
            scored = self._engine.score(whole, want=("logprobs", "topk"), topk=most)
            scores = {completion.id: found for (_, completion), found in zip(wanted, scored, strict=True)}
        for waiting, completion in ended:
            if not waiting.future.done():
                waiting.future.set_result((completion, scores.get(completion.id)))

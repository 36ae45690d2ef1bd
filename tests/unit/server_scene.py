"""A reward server on a virtual clock, and a component that does as it is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from buffers.scores import Sample, Score
from rewards.base import Component
from rewards.server import RewardServer

__all__ = ["Scripted", "now", "raises", "run", "sample", "samples", "server", "values"]


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of sleeping."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready:
            self.now_s = min((timer.when() for timer in self._scheduled if not timer.cancelled()), default=self.now_s)
        super()._run_once()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def now() -> float:
    return asyncio.get_running_loop().time()


def sample(name: str, group: str = "g", completion: str = "") -> Sample:
    return Sample(id=name, group=group, prompt="", completion=completion)


def samples(count: int) -> list[Sample]:
    return [sample(str(i)) for i in range(count)]


class Scripted(Component):
    """Sleeps `seconds`, then scores each sample by its id; `misbehave` may spoil a call first."""

    def __init__(self, seconds: float = 0.0, misbehave: Callable[[Sequence[Sample]], Any] = lambda call: None) -> None:
        self.seconds = seconds
        self.misbehave = misbehave
        self.calls: list[list[str]] = []
        self.starts: list[float] = []
        self.running = self.most_running = 0

    async def score(self, call: Sequence[Sample]) -> Any:
        self.calls.append([s.id for s in call])
        self.starts.append(now())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
            spoiled = self.misbehave(call)
            if asyncio.iscoroutine(spoiled):
                spoiled = await spoiled
        finally:
            self.running -= 1
        return [Score(value=float(s.id)) for s in call] if spoiled is None else spoiled


def server(component: Component, **settings: Any) -> RewardServer:
    return RewardServer(component, name="unit", rng=random.Random(0), **settings)


def values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]


def raises(error: Exception) -> Any:
    raise error

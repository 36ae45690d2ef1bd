"""One annotator as an actor hosts it: held to its contract, and counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from buffers.load import LoadMeter
from buffers.scores import ScoreStatus
from buffers.transport import HandleSet, Listening
from configs.decision import AnnotationConfig
from configs.errors import RunError
from rewards.endpoints.models import NO_MODELS, Models, model_pool
from rewards.intrinsic.annotators import build_annotator
from rewards.intrinsic.labels import Annotator, Item, Label

__all__ = ["AnnotatorMember", "build"]

DETAIL_CHARACTERS = 500


class AnnotatorMember(Listening):
    """Answers `annotate`, `ping` and `stats`; whatever the annotator does, every item gets one label in time."""

    def __init__(self, name: str, annotator: Annotator, deadline_s: float, models: Models = NO_MODELS) -> None:
        super().__init__(*models.values())
        self._name, self._annotator, self._deadline_s = name, annotator, deadline_s
        self._counters: Counter[str] = Counter()
        self._latency_s = 0.0
        self._load = LoadMeter(lambda: self._latency_s)

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        """Return one label per item, in order, within `deadline_s`.

        Raises:
          RunError: the annotator says that its settings are wrong; asking again would not help.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        items = [tuple(item) for item in items]
        labels = await self._labels(items) if items else []
        self._latency_s += loop.time() - started
        self._counters.update(["calls", *(label.status.value for label in labels)])
        return labels

    def ping(self) -> dict[str, Any]:
        """Return the counters and the load; the supervisor asks to see that the event loop runs."""
        return {**self.stats(), "load": {"annotator": self._load.report()}}

    def stats(self) -> dict[str, float]:
        """Return totals since the start: calls, labels by status, seconds in calls, and the annotator's own."""
        own: dict[str, float] = getattr(self._annotator, "stats", dict)()
        counts = {status.value: self._counters[status.value] for status in ScoreStatus}
        return {"calls": self._counters["calls"], **counts, "latency_s": self._latency_s, **own}

    async def close(self) -> None:
        """Release the annotator's connections."""
        await self._annotator.close()

    async def _labels(self, items: list[Item]) -> list[Label]:
        task = asyncio.ensure_future(self._annotator.annotate(items))
        try:
            await asyncio.wait({task}, timeout=self._deadline_s)
        finally:
            task.cancel()
        if not task.done():
            task.add_done_callback(_forget)
            return _all(items, ScoreStatus.TIMEOUT, f"annotator {self._name}: no labels within {self._deadline_s:g} s")
        error = asyncio.CancelledError("by itself") if task.cancelled() else task.exception()
        if isinstance(error, RunError):
            raise error
        if error is not None:
            return _all(items, ScoreStatus.ERROR, f"annotator {self._name}: {type(error).__name__}: {error}")
        return self._checked(items, task.result())

    def _checked(self, items: list[Item], labels: Any) -> list[Label]:
        answered = [label.item for label in labels] if _is_labels(labels) else None
        if answered != items:
            what = f"annotator {self._name}: annotate() must return one Label per item, in order"
            return _all(items, ScoreStatus.ERROR, what)
        return list(labels)


async def build(section: AnnotationConfig, name: str, seed: int, models: Sequence[str] = ()) -> AnnotatorMember:
    """Build a member inside its own process; its calls last a little less than `section.deadline_s`.

    Args:
      models: names of `rewards.models`.

    Raises:
      ConfigError: the section names no usable annotator.
    """
    pools = {model: HandleSet(model_pool(model)) for model in models}
    annotator = build_annotator(section, seed, model_pools=pools)
    return AnnotatorMember(name, annotator, 0.95 * section.deadline_s, pools)


def _all(items: Sequence[Item], status: ScoreStatus, detail: str) -> list[Label]:
    return [Label(item=item, status=status, detail=detail[:DETAIL_CHARACTERS]) for item in items]


def _is_labels(labels: object) -> bool:
    return isinstance(labels, list | tuple) and all(isinstance(label, Label) for label in labels)


def _forget(task: asyncio.Future[Any]) -> None:
    # Reading the exception keeps asyncio from reporting it as never retrieved.
    if not task.cancelled():
        task.exception()

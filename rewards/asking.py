"""Asks the components of a sample in parallel, each on the least-loaded replica of its pool.

A replica that dies, or whose breaker is open, is left for another one; the last one is waited for. One whose breaker
was open has nothing to do, so by its load it would be asked first: for a second it comes after the others. While there
is none, the wait for a replacement counts against the part's deadline. What has no score by then is invalid,
with the reason; never 0.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import Handle, HandleSet
from configs.errors import DeadlineExceeded, MemberLost

__all__ = ["Asker", "RewardPart"]

REST_S = 1.0
"""For a replica whose breaker was open; it must be asked now and then, or nothing would probe it."""


@dataclass(frozen=True, kw_only=True)
class RewardPart:
    """One component of the graph: where its replicas are, and what it asks for."""

    replicas: HandleSet
    deadline_s: float
    """For one `score` of the graph: queue, retries and the wait for a replacement included."""
    scope: str = "sample"
    needs: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    """Components whose values this one finds in `sample.metadata["scores"]` (None where invalid)."""
    when: str = "arrival"
    """arrival: once, when generated. batch: whenever a learner batch is read."""


class Asker:
    """Knows the replicas of all components and how much each of them has to do."""

    def __init__(self, parts: Mapping[str, RewardPart]) -> None:
        self._parts = parts
        self._load: Counter[tuple[str, str]] = Counter()
        self._declined: dict[tuple[str, str], float] = {}
        """Loop time until which a replica that would not be asked is thought of last."""

    async def ask(
        self, names: Sequence[str], samples: Sequence[Sample], known: Mapping[str, list[Score]]
    ) -> dict[str, list[Score]]:
        """Return the scores of some components by name; returns within the sum of deadlines along `after`.

        Args:
          names: in topological order.
          known: scores that components of `names` may read, by component.
        """
        if not samples:
            return {name: [] for name in names}
        tasks: dict[str, asyncio.Task[list[Score]]] = {}
        async with asyncio.TaskGroup() as group:
            for name in names:
                after = self._parts[name].after
                running = {other: tasks[other] for other in after if other in tasks}
                given = {other: known[other] for other in after if other in known}
                tasks[name] = group.create_task(self._part(name, samples, running, given))
        return {name: tasks[name].result() for name in self._parts if name in tasks}

    async def _part(
        self,
        name: str,
        samples: Sequence[Sample],
        running: Mapping[str, asyncio.Task[list[Score]]],
        given: Mapping[str, list[Score]],
    ) -> list[Score]:
        earlier = {**given, **{other: await task for other, task in running.items()}}
        if earlier:
            samples = [_informed(sample, earlier, i) for i, sample in enumerate(samples)]
        until = asyncio.get_running_loop().time() + self._parts[name].deadline_s
        scores: list[Score | None] = [None] * len(samples)
        lost, busy = list[Handle](), list[Handle]()
        while missing := [place for place, score in enumerate(scores) if score is None]:
            asked = [samples[place] for place in missing]
            answers: Sequence[Score | None]
            if (found := await self._replica(name, lost, busy, until)) is None:
                what = f"no replica of {name!r} within {self._parts[name].deadline_s:g} s, {len(lost)} died meanwhile"
                answers = _all(asked, name, ScoreStatus.ERROR, f"{what}; see their logs, or raise max_restarts")
            else:
                handle, last = found
                try:
                    answers = await self._call(name, handle, asked, last, until)
                    busy.append(handle)  # where an answer is missing, its breaker is open
                    self._remember(name, handle, declined=None in answers)
                except MemberLost:
                    lost.append(handle)  # scoring is pure, so another replica may do it again
                    continue
                except DeadlineExceeded as error:
                    answers = _all(asked, name, ScoreStatus.TIMEOUT, str(error))
            for place, answer in zip(missing, answers, strict=True):
                scores[place] = answer
        return [score for score in scores if score is not None]

    async def _replica(
        self, name: str, lost: Sequence[Handle], busy: Sequence[Handle], until: float
    ) -> tuple[Handle, bool] | None:
        """Return (the least-loaded live replica, whether it is the last to ask); None at loop time `until`.

        Waits for one to join while there is none.
        """
        replicas = self._parts[name].replicas
        while not (live := _without(replicas, lost)):
            try:
                await replicas.changed(until - asyncio.get_running_loop().time())
            except DeadlineExceeded:
                return None
        fresh, now = _without(live, busy), asyncio.get_running_loop().time()

        def burden(handle: Handle) -> tuple[bool, int]:
            key = (name, handle.name)
            return self._declined.get(key, now) > now, self._load[key]

        return min(fresh or live, key=burden), len(fresh) <= 1

    def _remember(self, name: str, handle: Handle, *, declined: bool) -> None:
        now = asyncio.get_running_loop().time()
        self._declined = {key: until for key, until in self._declined.items() if until > now}
        if declined:
            self._declined[name, handle.name] = now + REST_S

    async def _call(
        self, name: str, handle: Handle, samples: Sequence[Sample], last: bool, until: float
    ) -> list[Score | None]:
        key = (name, handle.name)
        self._load[key] += len(samples)
        try:
            scores: list[Score | None] = await handle.call(
                "score",
                samples,
                *([] if last else [False]),  # with others to ask, nobody waits for a breaker
                deadline_s=until - asyncio.get_running_loop().time(),
                awaiting=f"scores of {len(samples)} samples from {samples[0].id} on",
            )
        finally:
            self._load[key] -= len(samples)
            if not self._load[key]:
                del self._load[key]  # names of restarted members must not pile up
        return scores


def _without(handles: Iterable[Handle], left_out: Sequence[Handle]) -> list[Handle]:
    return [handle for handle in handles if not any(handle is other for other in left_out)]


def _all(samples: Sequence[Sample], name: str, status: ScoreStatus, detail: str) -> list[Score]:
    return [Score.invalid(status, detail, component=name)] * len(samples)


def _informed(sample: Sample, earlier: Mapping[str, Sequence[Score]], position: int) -> Sample:
    values = {name: column[position].value for name, column in earlier.items()}
    return replace(sample, metadata={**sample.metadata, "scores": values})

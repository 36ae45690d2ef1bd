"""The reward graph: all components of a sample in parallel, each on the least-loaded replica of its pool.

    samples --> component a --.
            --> component b --+--> combine --> one Verdict per sample
            --> component c --'     (c waits for b where c.after names b)

Components with `when: batch` are asked when a batch is read: `score` leaves them out, `score_batch` adds them.
Until then they count as 0 in a total, which filters see; it is never trained on, and never recorded.

A replica that dies is left for another one; while there is none, the wait for a replacement counts
against the part's deadline. What has no score by then is invalid, with the reason; never 0.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import Handle, HandleSet
from configs.errors import DeadlineExceeded, MemberLost
from rewards.combine import Combine, Verdict

__all__ = ["RewardGraph", "RewardPart"]


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


class RewardGraph:
    """Scores samples with every part; a plain object inside the buffer's process."""

    def __init__(self, parts: Mapping[str, RewardPart], combine: Combine) -> None:
        """Wire `parts` by component name.

        Raises:
          ValueError: an `after` names an unknown component, or they form a circle, or one that is scored at
            arrival runs after one that is scored later.
        """
        self._parts = dict(parts)
        self._combine = combine
        self._load: Counter[tuple[str, str]] = Counter()
        self._order = _topological(self._parts)
        self._at_arrival = [name for name in self._order if self._parts[name].when == "arrival"]
        self._at_batch = [name for name in self._order if self._parts[name].when == "batch"]
        for name in self._at_arrival:
            if early := sorted(self._parts[name].after.intersection(self._at_batch)):
                raise ValueError(f"component {name!r} is scored at arrival, before {early} with when: batch")

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Sample` that `score` wants filled in."""
        return frozenset().union(*(self._parts[name].needs for name in self._at_arrival))

    @property
    def batch_needs(self) -> frozenset[str]:
        """Those that `score_batch` wants filled in."""
        return frozenset().union(*(self._parts[name].needs for name in self._at_batch))

    @property
    def scopes(self) -> frozenset[str]:
        """Scopes in use at arrival; beyond "sample", hand over whole groups at a time."""
        return frozenset(self._parts[name].scope for name in self._at_arrival)

    @property
    def batch_components(self) -> tuple[str, ...]:
        """Components that `score_batch` asks; without any it need not be called."""
        return tuple(self._at_batch)

    async def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Return one verdict per sample, in order; returns within the sum of deadlines along `after`."""
        columns = await self._ask(self._at_arrival, samples, {})
        scores = [{name: column[i] for name, column in columns.items()} for i in range(len(samples))]
        if not self._at_batch:
            return [self._combine(known) for known in scores]
        later = {name: Score(value=0.0, component=name) for name in self._at_batch}
        return [replace(self._combine({**known, **later}), scores=known) for known in scores]

    async def score_batch(self, samples: Sequence[Sample], known: Sequence[Mapping[str, Score]]) -> list[Verdict]:
        """Return verdicts over `known`, the scores of each sample at arrival, and those of `batch_components`."""
        before = {name: [scores[name] for scores in known] for name in self._at_arrival}
        columns = before | await self._ask(self._at_batch, samples, before)
        return [self._combine({name: column[i] for name, column in columns.items()}) for i in range(len(samples))]

    async def _ask(
        self, names: Sequence[str], samples: Sequence[Sample], known: Mapping[str, list[Score]]
    ) -> dict[str, list[Score]]:
        """Return the scores of some components, in topological order, by name."""
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
        lost: list[Handle] = []
        while (handle := await self._replica(name, lost, until)) is not None:
            try:
                return await self._call(name, handle, samples, until)
            except MemberLost:
                lost.append(handle)  # scoring is pure, so another replica may do it again
            except DeadlineExceeded as error:
                return [Score.invalid(ScoreStatus.TIMEOUT, str(error), component=name)] * len(samples)
        what = f"no replica of {name!r} within {self._parts[name].deadline_s:g} s, {len(lost)} died meanwhile"
        detail = f"{what}; see their logs, or raise max_restarts"
        return [Score.invalid(ScoreStatus.ERROR, detail, component=name)] * len(samples)

    async def _replica(self, name: str, lost: Sequence[Handle], until: float) -> Handle | None:
        """Return the least-loaded live replica, waiting for one to join; None at loop time `until`."""
        replicas = self._parts[name].replicas
        while not (live := [handle for handle in replicas if not any(handle is gone for gone in lost)]):
            try:
                await replicas.changed(until - asyncio.get_running_loop().time())
            except DeadlineExceeded:
                return None
        return min(live, key=lambda handle: self._load[name, handle.name])

    async def _call(self, name: str, handle: Handle, samples: Sequence[Sample], until: float) -> list[Score]:
        key = (name, handle.name)
        self._load[key] += len(samples)
        try:
            scores: list[Score] = await handle.call(
                "score",
                samples,
                deadline_s=until - asyncio.get_running_loop().time(),
                awaiting=f"scores of {len(samples)} samples from {samples[0].id} on",
            )
        finally:
            self._load[key] -= len(samples)
            if not self._load[key]:
                del self._load[key]  # names of restarted members must not pile up
        return scores


def _informed(sample: Sample, earlier: Mapping[str, Sequence[Score]], position: int) -> Sample:
    values = {name: column[position].value for name, column in earlier.items()}
    return replace(sample, metadata={**sample.metadata, "scores": values})


def _topological(parts: Mapping[str, RewardPart]) -> list[str]:
    order: list[str] = []
    remaining = dict(parts)
    for name, part in parts.items():
        if unknown := sorted(part.after - parts.keys()):
            raise ValueError(f"component {name!r} runs after {unknown}, not in the graph; it has {sorted(parts)}")
    while remaining:
        ready = [name for name, part in remaining.items() if part.after <= set(order)]
        if not ready:
            raise ValueError(f"components {sorted(remaining)} wait for each other; remove one from an `after`")
        order += ready
        for name in ready:
            del remaining[name]
    return order

"""Scores that are given when a batch is read: by the newest reward model, each batch once.

So are those of groups in which scores of several versions of a component met, and the weights of a schedule
are those of the consuming version.

    compose -> the rows' samples -> reward graph -> recorded with the consuming version -> the batch with verdicts

X waits for Y: `next_batch` waits for `scored`, whose end the deadlines of the graph's components bound; `commit`
waits for `stored`, so that no update is recorded before the rewards it was made with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from buffers.batch import Batch
from buffers.live_groups import Verdict
from buffers.payloads import PayloadStore
from buffers.samples import sample_columns, to_samples
from buffers.scores import Sample, Score
from configs.errors import DeadlineExceeded

__all__ = ["BatchScorer", "BatchScoring"]


class BatchScorer(Protocol):
    """The reward graph, as far as it looks at batches."""

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Sample` that some component at arrival reads."""
        ...

    @property
    def batch_needs(self) -> frozenset[str]:
        """Those that some component of `batch_components` reads."""
        ...

    @property
    def batch_components(self) -> tuple[str, ...]:
        """Who is asked for every batch."""
        ...

    @property
    def scheduled(self) -> bool:
        """Whether verdicts depend on the update that consumes them."""
        ...

    def mixes_versions(self, groups: Sequence[Sequence[Mapping[str, Score]]]) -> bool:
        """Whether scores at arrival are of several versions of a component within a group."""
        ...

    async def score_batch(
        self, samples: Sequence[Sample], known: Sequence[Mapping[str, Score]], version: int
    ) -> Sequence[Verdict]: ...

    def combined(self, scores: Sequence[Mapping[str, Score]], version: int) -> Sequence[Verdict]: ...


class ScoreLog(Protocol):
    """Where score attempts are stored."""

    def record_scores(self, scores: Sequence[tuple[str, Score]], update_version: int | None = None) -> Future[None]: ...


class BatchScoring:
    """Scores each announced batch once, however often it is asked for."""

    def __init__(self, scorer: BatchScorer, *, payloads: PayloadStore, log: ScoreLog) -> None:
        self._scorer, self._payloads, self._log = scorer, payloads, log
        self._scored: dict[int, asyncio.Task[Batch]] = {}
        """By consuming version."""
        self._stored: dict[int, Future[None]] = {}

    async def scored(self, batch: Batch, wait_s: float) -> Batch:
        """Return the batch with its verdicts; one that takes longer goes on, for the next call.

        Raises:
          DeadlineExceeded: there are no scores within `wait_s`.
        """
        if not (self._scorer.batch_components or self._mixes_versions(batch)):
            return self._weighed(batch) if self._scorer.scheduled else batch
        if batch.version not in self._scored:
            self._scored[batch.version] = asyncio.get_running_loop().create_task(self._score(batch))
        task = self._scored[batch.version]
        try:
            async with asyncio.timeout(max(wait_s, 0.0)):
                return await asyncio.shield(task)
        except TimeoutError as error:
            names = ", ".join(self._scorer.batch_components) or "one version of each component"
            raise DeadlineExceeded(
                f"batch {batch.version} has no scores by {names} within {wait_s:g} s, from {batch.ids[0]} on; "
                "raise their replicas, or lower their deadline_s"
            ) from error

    async def stored(self, version: int, deadline_s: float) -> None:
        """Return once the scores of a batch are on disk, and forget the batch.

        Raises:
          DeadlineExceeded: the disk did not take them in time.
        """
        if (future := self._stored.get(version)) is None:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.shield(asyncio.wrap_future(future))  # for the next call, too
        except TimeoutError as error:
            raise DeadlineExceeded(f"scores of batch {version} are not on disk within {deadline_s:g} s") from error
        self._scored.pop(version, None)
        self._stored.pop(version, None)

    async def close(self) -> None:
        """Stop scoring."""
        tasks = list(self._scored.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _weighed(self, batch: Batch) -> Batch:
        """Return the batch with the verdicts of its own update, over the scores at arrival."""
        verdicts = self._scorer.combined([row.scores for row in batch.rows], batch.version)
        return replace(batch, verdicts=dict(zip(batch.ids, verdicts, strict=True)))

    async def _score(self, batch: Batch) -> Batch:
        needs = self._scorer.batch_needs | (self._scorer.needs if self._mixes_versions(batch) else frozenset())
        samples = to_samples(self._payloads.gather(batch.rows, sample_columns(needs)), needs)
        known = [row.scores for row in batch.rows]
        verdicts = await self._scorer.score_batch(samples, known, batch.version)
        given: list[tuple[str, Score]] = []
        took_s: dict[str, float] = {}
        for sample, before, verdict in zip(samples, known, verdicts, strict=True):
            for name, score in verdict.scores.items():
                if score is not before.get(name):  # the others are recorded since their arrival
                    given.append((sample.id, score))
                    took_s[name] = max(took_s.get(name, 0.0), score.latency_s)
        self._stored[batch.version] = self._log.record_scores(given, batch.version)
        return replace(batch, verdicts={s.id: v for s, v in zip(samples, verdicts, strict=True)}, scoring_s=took_s)

    def _mixes_versions(self, batch: Batch) -> bool:
        return self._scorer.mixes_versions([[row.scores for row in group.valid_rows] for group in batch.groups])

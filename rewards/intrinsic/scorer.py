"""The reward component of intrinsic rewards: one value per step, by the newest version it was given.

T steps of a fragment, or the one completion of a text sample.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.environment_spec import EnvironmentSpec, Observations
from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.intrinsic.base import IntrinsicModel, after_steps
from rewards.intrinsic.met import Met
from rewards.online.outbox import Outbox
from rewards.online.tensors import State
from rewards.threads import WorkerThreads

__all__ = ["IntrinsicScorer"]

CACHE = 100_000
"""Captions whose values a version remembers; beyond it the oldest are computed again."""


@dataclass
class _Serving:
    """One version, and what it said so far."""

    model: IntrinsicModel
    values: dict[str, float] = field(default_factory=dict)
    used: bool = False
    computing: asyncio.Lock = field(default_factory=asyncio.Lock)


class IntrinsicScorer(Component):
    """Sum and vector of the T intrinsic rewards of a sample, undivided by counts; 0 for an empty caption.

    Source: arXiv:2410.23022, scored by a service of its own.
    """

    def __init__(
        self,
        make_model: Callable[[], IntrinsicModel],
        outbox: Outbox[Met],
        *,
        spec: EnvironmentSpec | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._make_model, self._outbox, self._spec, self._wall_clock = make_model, outbox, spec, wall_clock
        self._serving = _Serving(make_model())
        self._threads = WorkerThreads("intrinsic")
        self.scored_captions = 0
        """Distinct captions whose values were computed, summed over versions."""

    @property
    def model(self) -> IntrinsicModel:
        return self._serving.model

    def install(self, version: int, state: State) -> int:
        """Serve a version from now on, unless a newer one is there already; return the one served.

        Calls that run go on with the version they began with.
        """
        if version > self.model.version:
            model = self._make_model()
            model.load(version, state)
            self._serving = _Serving(model)
        return self.model.version

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
        """Return one score per sample, in order; a sample without what the model needs abstains."""
        serving = self._serving
        if serving.model.needs == "observations":
            return await self._score_observations(serving, samples)
        return await self._score_captions(serving, samples)

    async def _score_captions(self, serving: _Serving, samples: Sequence[Sample]) -> list[Score]:
        met = Counter(caption for sample in samples for caption in sample.captions if caption)
        values = await self._values(serving, list(met))
        self._pass_on(serving, Met(captions=dict(met)))
        version = serving.model.version
        return [_score(s, [values[c] if c else 0.0 for c in s.captions], version) for s in samples]

    async def _values(self, serving: _Serving, captions: list[str]) -> dict[str, float]:
        """Return the value of each caption, computed once per version."""
        async with serving.computing:
            if missing := [caption for caption in captions if caption not in serving.values]:
                values = await self._threads.run(serving.model.score, missing)
                serving.values.update(zip(missing, map(float, values), strict=True))
                self.scored_captions += len(missing)
            found = {caption: serving.values[caption] for caption in captions}
            for caption in list(islice(serving.values, max(0, len(serving.values) - CACHE))):
                del serving.values[caption]
        return found

    async def _score_observations(self, serving: _Serving, samples: Sequence[Sample]) -> list[Score]:
        assert self._spec is not None, "a model of observations is not built without their specification"
        given = [sample for sample in samples if sample.observations]
        after = [after_steps(self._spec, sample.observations) for sample in given]
        values = await self._threads.run(_score_all, serving.model, after)
        self._pass_on(serving, Met(fragments=[sample.observations for sample in given]))
        by_id = dict(zip((sample.id for sample in given), values, strict=True))
        return [_score(sample, by_id.get(sample.id, ()), serving.model.version) for sample in samples]

    def _pass_on(self, serving: _Serving, met: Met) -> None:
        if not serving.model.learns:
            return
        if not serving.used:
            serving.used = True
            met.used[serving.model.version] = self._wall_clock()
        self._outbox.add(met)

    async def close(self) -> None:
        self._threads.close()


def _score_all(model: IntrinsicModel, fragments: Sequence[Observations]) -> list[NDArray[Any]]:
    """Score fragments in one call; return [T] values of each."""
    if not fragments:
        return []
    together = {name: np.concatenate([f[name] for f in fragments]) for name in fragments[0]}
    ends = np.cumsum([len(next(iter(f.values()))) for f in fragments])
    return np.split(model.score(together), ends[:-1])


def _score(sample: Sample, values: Sequence[float] | NDArray[Any], version: int) -> Score:
    if not len(values):
        detail = f"{sample.id} has nothing to score; set environment.captions, or choose another intrinsic reward"
        return Score.invalid(ScoreStatus.ABSTAINED, detail, version=version)
    vector = tuple(map(float, values))
    if any(map(math.isnan, vector)):
        unknown = sum(map(math.isnan, vector))
        detail = f"{unknown} of {len(vector)} captions of {sample.id} have no value yet"
        return Score.invalid(ScoreStatus.ABSTAINED, detail, version=version)
    return Score(value=math.fsum(vector), vector=vector, version=version)

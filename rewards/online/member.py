"""One scoring server of a component that learns: the server, the version it serves, and the way to the learner."""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from buffers.scores import Sample, Score
from buffers.transport import HandleSet
from configs.schema import RunConfig
from rewards import build_component, serve
from rewards.base import Closing, Component
from rewards.endpoints.models import NO_MODELS, Models, model_sets
from rewards.online.archive import Archive
from rewards.online.base import Lessons, OnlineComponent, component_folder, dependencies, learner_pool
from rewards.online.outbox import Outbox
from rewards.online.tally import Tally
from rewards.online.teaching import TeachingMember
from rewards.online.tensors import State
from rewards.server import RewardServer

__all__ = ["OnlineMember", "Served", "build"]


class Served(Component):
    """The newest version of a component; a call is answered by the one it began with."""

    def __init__(self, component: OnlineComponent) -> None:
        self.component = component
        self.scope, self.needs = component.scope, component.needs  # type: ignore[misc]
        if inspect.iscoroutinefunction(component.score):
            self.score = self._awaited  # type: ignore[assignment]  # so that it runs in the loop, as by itself

    @property
    def version(self) -> int:
        """Of what is served."""
        return self.component.version

    def install(self, version: int, state: State) -> int:
        """Serve a version from now on, unless a newer one is there already; return the one served."""
        if version > self.component.version:
            self.component = self.component.at(version, state)
        return self.component.version

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        component = self.component
        return _stamped(component, component.score(samples))

    async def _awaited(self, samples: Sequence[Sample]) -> list[Score]:
        component = self.component
        return _stamped(component, await component.score(samples))  # type: ignore[misc]

    def stats(self) -> dict[str, float]:
        """Return what the component counts, if it does."""
        counted: dict[str, float] = getattr(self.component, "stats", dict)()
        return counted

    async def close(self) -> None:
        """Let go what the component holds."""
        if isinstance(self.component, Closing):
            await self.component.close()


def _stamped(component: OnlineComponent, scores: Sequence[Score]) -> list[Score]:
    return [replace(score, version=component.version) for score in scores]


class OnlineMember(TeachingMember):
    """Answers `install`, beside what every member of its kind does."""

    def __init__(
        self,
        server: RewardServer,
        served: Served,
        learners: HandleSet,
        tally: Tally,
        call_deadline_s: float,
        models: Models = NO_MODELS,
    ) -> None:
        super().__init__(server, Outbox(learners, call_deadline_s, Lessons), learners, *models.values())
        self._served, self._tally = served, tally

    @property
    def version(self) -> int:
        return self._served.version

    async def score(self, samples: Sequence[Sample], patient: bool = True) -> list[Score | None]:
        """Return one score per sample, in order; what is to be learned from them is on its way to the learner."""
        scores = await super().score(samples, patient)
        mine = [(sample, score) for sample, score in zip(samples, scores, strict=True) if score is not None]
        if mine:
            lessons = self._served.component.lessons(*zip(*mine, strict=True))
            met = self._tally.add(len(lessons))
            self._outbox.add(Lessons(items=lessons, sender=self._tally.sender, end=met))
        return scores

    async def install(self, version: int, state: State) -> int:
        """Serve a version that the learner published; return the one served, which may be newer."""
        return await asyncio.to_thread(self._served.install, version, state)

    async def close(self) -> None:
        """Let everything go, what the learner does not have yet as well; no call is under way."""
        await super().close()
        self._tally.close()


async def build(config: RunConfig, run_folder: Path, name: str) -> OnlineMember:
    """Build a scoring server of component `name` inside its own process; it begins with the newest version on disk.

    Raises:
      ConfigError: the component cannot be built.
    """
    torch.set_num_threads(1)
    section = config.rewards.components[name]
    models = model_sets(config.rewards.models)
    served = Served(build_component(section, name, **dependencies(config, Path(run_folder), models)))
    if (found := Archive(component_folder(run_folder, name)).newest()) is not None:
        served.install(*found)
    server = serve(served, section, name=name, rng=random.Random(f"{config.seed}/{name}"))
    await server.start()
    tally = Tally(component_folder(run_folder, name), uuid.uuid4().hex)
    learners = HandleSet(learner_pool(name))
    return OnlineMember(server, served, learners, tally, config.cluster.call_deadline_s, models)

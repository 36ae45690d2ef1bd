"""The actor that trains one reward component beside its servers.

    members --submit--> lessons --update--> archive (disk) --> publication --> members

X waits for Y: training waits for lessons, publication for the disk, and a sender, beside its scores, for a version on
disk that has learned from its message. Each version stores how many lessons of each sender it knows, so that
what a sender repeats to the successor of a killed learner is learned exactly once; and beside what a sender says on
disk that it has had, it shows what was lost with one that was killed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from buffers.epochs import begin_epoch, require_newest
from buffers.transport import HandleSet, Listening
from configs.errors import RunError
from configs.schema import RunConfig
from rewards import build_component
from rewards.base import Closing
from rewards.endpoints.models import NO_MODELS, Models, model_sets
from rewards.online.archive import Archive
from rewards.online.base import LESSONS, Lessons, OnlineComponent, component_folder, dependencies
from rewards.online.loops import Signal
from rewards.online.publication import Publication
from rewards.online.tally import lost
from rewards.online.tensors import State
from rewards.threads import WorkerThreads

__all__ = ["OnlineLearner", "build"]

IDLE_S = 5.0
TAKEN = "taken/"
"""Prefix of a sender, in the state of a version."""


class OnlineLearner(Listening):
    """Answers `submit`, `stats` and `ping`; each server is given the newest version, and each that follows."""

    def __init__(
        self, component: OnlineComponent, archive: Archive, members: HandleSet, *, call_deadline_s: float,
        train_deadline_s: float, lost: Callable[[Mapping[str, int]], int], models: Models = NO_MODELS,
    ) -> None:  # fmt: skip
        """Go on from the newest version in `archive`, if there is one; `start` begins to train.

        Args:
          lost: from lessons that arrived, by sender, to how many of dead senders did not; see `tally.lost`.
        """
        super().__init__(members, *models.values())
        self._component, self._archive = component, archive
        self._train_deadline_s, self._lost = train_deadline_s, lost
        self._publication = Publication(members, call_deadline_s)
        self._waiting: list[Any] = []
        self._taken: dict[str, int] = {}
        """Lessons of each sender that were taken in."""
        self._kept: dict[str, int] = {}
        """Those of them that a version on disk has learned from, or that were let go before it."""
        self._learned = self._let_go = 0
        self._metrics: dict[str, float] = {}
        self._arrived, self._stored = Signal(), Signal()
        self._threads = WorkerThreads("reward-training")
        self._training: asyncio.Task[None] | None = None
        if (found := archive.newest()) is not None:
            version, state = found
            self._kept = {key.removeprefix(TAKEN): int(state.pop(key)) for key in list(state) if key.startswith(TAKEN)}
            self._taken = dict(self._kept)
            component.load(version, state)
            self._publication.publish(version, component.state())

    def start(self) -> None:
        """Begin to train."""
        self._training = asyncio.get_running_loop().create_task(self._train())

    async def submit(self, lessons: Lessons) -> None:
        """Take in what a server met, unless it is known; returns once a version on disk has learned from it."""
        taken = self._taken.get(lessons.sender, 0)
        new = lessons.after(taken).items
        self._waiting += new
        self._taken[lessons.sender] = max(taken, lessons.end)
        surplus = max(0, len(self._waiting) - LESSONS)
        del self._waiting[:surplus]
        self._let_go += surplus + self._taken[lessons.sender] - taken - len(new)
        self._arrived.send()
        while self._kept.get(lessons.sender, 0) < lessons.end:
            await self._stored.wait(IDLE_S)

    def stats(self) -> dict[str, float]:
        """Return figures since the start.

        version           the newest one
        lessons, waiting  samples learned from, samples that wait to be
        let_go            samples left out because too many waited, here or at their sender
        lost              those that a sender took along when it died, since the beginning of the run
        and what the component says of its last update.
        """
        counts = {"lessons": self._learned, "waiting": len(self._waiting), "let_go": self._let_go}
        counts["lost"] = self._lost(self._taken)
        return {**self._metrics, **counts, "version": self._publication.version}

    def ping(self) -> dict[str, Any]:
        """Return the figures.

        Raises:
          RunError: training, the disk or a loop failed; only a new process goes on.
        """
        self._publication.raise_failure()
        if self._training is not None and self._training.done() and not self._training.cancelled():
            error = self._training.exception()
            raise RunError(f"training of {type(self._component).__name__} ended: {error!r}") from error
        return dict(self.stats())

    async def close(self) -> None:
        """End the loops."""
        if self._training is not None:
            self._training.cancel()
            await asyncio.gather(self._training, return_exceptions=True)
        await self._publication.close()
        if isinstance(self._component, Closing):
            await self._component.close()
        self._threads.close()

    async def _train(self) -> None:
        """Make a version whenever there is something to learn from, until cancelled."""
        while True:
            if not self._waiting:
                await self._arrived.wait(IDLE_S)
                continue
            lessons, self._waiting, taken = self._waiting, [], dict(self._taken)
            async with asyncio.timeout(self._train_deadline_s):
                state = await self._update(lessons, taken)
            self._learned += len(lessons)
            self._kept = taken
            self._stored.send()
            self._publication.publish(self._component.version, state)

    async def _update(self, lessons: list[Any], taken: Mapping[str, int]) -> State:
        """Learn, and store the version before anyone is given it; return its state."""
        learn: Any = self._component.update
        in_the_loop = inspect.iscoroutinefunction(learn)
        self._metrics = await (learn(lessons) if in_the_loop else self._threads.run(learn, lessons))
        state: State = await self._threads.run(self._store, taken)
        return state

    def _store(self, taken: Mapping[str, int]) -> State:
        state = self._component.state()
        cursors = {TAKEN + sender: np.array(count) for sender, count in taken.items()}
        self._archive.save(self._component.version, {**state, **self._component.training_state(), **cursors})
        return state


def build(config: RunConfig, run_folder: Path, name: str) -> OnlineLearner:
    """Build the learner of component `name` inside its own process; it resumes what `run_folder` holds.

    Raises:
      ConfigError: the component cannot be built.
      Corruption: what an earlier process stored is damaged.
    """
    torch.set_num_threads(1)
    folder = component_folder(run_folder, name)
    epoch = begin_epoch(folder)
    models = model_sets(config.rewards.models)
    component = build_component(config.rewards.components[name], name, **dependencies(config, run_folder, models))
    learner = OnlineLearner(
        component,
        Archive(folder, lambda: require_newest(folder, epoch), component.kept_versions),
        HandleSet(f"reward.{name}"),
        call_deadline_s=config.cluster.call_deadline_s,
        train_deadline_s=config.learner.update_deadline_s,
        lost=partial(lost, folder),
        models=models,
    )
    learner.start()
    return learner

"""The reward learner: what scorers met becomes labels, labels become versions, versions reach the scorers.

    scorers --submit--> queue --> annotators --> store --update--> archive (disk) --> published --> scorers

One actor owns all of it, so that nothing is asked, counted or fitted twice. X waits for Y: training
waits for labels (or observations), publication for the disk; scorers and rollouts wait for nobody here.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from buffers.environment_spec import EnvironmentSpec
from buffers.epochs import begin_epoch
from buffers.transport import HandleSet, Listening
from configs.errors import RunError
from configs.schema import RunConfig
from rewards.intrinsic import build_model
from rewards.intrinsic.annotation import Annotation
from rewards.intrinsic.base import Evidence, IntrinsicModel, after_steps
from rewards.intrinsic.label_queue import LabelQueue
from rewards.intrinsic.label_store import LabelStore
from rewards.intrinsic.labels import Item
from rewards.intrinsic.met import Met
from rewards.intrinsic.pairs import PairSource
from rewards.intrinsic.usage import Usage
from rewards.online.archive import Archive
from rewards.online.loops import MemberLoops, Signal
from rewards.online.publication import Publication
from rewards.online.tensors import State
from rewards.threads import WorkerThreads

__all__ = ["RewardLearner", "build"]

IDLE_S = 5.0
CAPTIONS = 10_000
"""Different captions whose occurrences since the last update are known; of more, the first ones are forgotten."""
FRAGMENTS = 256
"""Fragments that wait to be learned from; beyond it the oldest are let go."""


class RewardLearner(Listening):
    """Answers `submit`, `stats` and `ping`; annotators and scorers come and go by `attach` and `detach`."""

    def __init__(
        self,
        model: IntrinsicModel,
        store: LabelStore,
        archive: Archive,
        config: RunConfig,
        *,
        spec: EnvironmentSpec | None = None,
        interval_s: float = 1.0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Go on from the newest version in `archive`, if there is one; `start` begins the loops.

        Args:
          interval_s: shortest time from one version to the next, since each empties the scorers' caches.
        """
        settings = config.exploration.annotation
        self._model, self._store, self._archive, self._spec = model, store, archive, spec
        self._train_deadline_s = config.learner.update_deadline_s
        self._interval_s, self._wall_clock = interval_s, wall_clock
        self._queue = LabelQueue(
            settings.queue,
            labelled=store,
            max_abstentions=settings.max_abstentions,
            abstentions=store.abstentions,
        )
        self._pairs = PairSource(random.Random(config.seed))
        annotators, scorers = HandleSet("annotator"), HandleSet("reward.intrinsic")
        self._annotation = Annotation(
            self._queue, store, settings,
            refill=self._refill, version=lambda: self._publication.version,
            labelled=self._labelled, wall_clock=wall_clock, is_leaving=annotators.is_leaving,
        )  # fmt: skip
        super().__init__(annotators, scorers)
        self._annotating = MemberLoops(annotators, self._annotation.work)
        self._publication = Publication(scorers, config.cluster.call_deadline_s)
        self._usage = Usage(store.captions)
        self._captions: Counter[str] = Counter()
        self._fragments: list[bytes] = []
        self._has_news = bool(store)  # the process before may have died between a label and its version
        self._arrived = Signal()
        self._threads = WorkerThreads("reward-training")
        self._training: asyncio.Task[None] | None = None
        self._metrics: dict[str, float] = {}
        self._resume()

    def start(self) -> None:
        """Begin to train."""
        self._training = asyncio.get_running_loop().create_task(self._train())

    def ping(self) -> dict[str, Any]:
        """Return the figures and the last failure of an annotator.

        Raises:
          RunError: training, the disk or a loop failed; only a new process goes on.
        """
        self._store.raise_failure()
        self._annotating.raise_failure()
        self._publication.raise_failure()
        if self._training is not None and self._training.done() and not self._training.cancelled():
            error = self._training.exception()
            raise RunError(f"training of {type(self._model).__name__} ended: {error!r}") from error
        last = self._annotation.last_failure
        return {**self.stats(), "last_annotator_failure": last, "load": {"annotator": self._queue.load.report()}}

    # -- scorers --------------------------------------------------------------------------------

    def submit(self, met: Met) -> None:
        """Take in what a scorer met; returns at once."""
        self._usage.met(met)
        self._captions.update(met.captions)
        for caption in list(islice(self._captions, max(0, len(self._captions) - CAPTIONS))):
            del self._captions[caption]
        self._fragments = [*self._fragments, *met.fragments][-FRAGMENTS:]
        if self._model.asks == 1:
            self._queue.offer((caption,) for caption in met.captions)
        elif self._model.asks == 2:
            self._pairs.add(met.captions)
        self._annotation.offered.send()
        self._arrived.send()

    def stats(self) -> dict[str, float]:
        """Return figures since the start; what is not known yet is left out.

        labels, heldout_labels     with a value
        queue, in_flight, let_go   items that wait, are being labelled, left because the queue was full
        abstained, parse_failures  answers without a label; those among them whose reply could not be read
        annotator_failures         calls that died, hung, or answered garbage or faults alone
        duplicates                 labels of items that had one
        coverage                   share of the latest scored captions that are in a labelled item, by occurrence
        reward_lag_p50_s           from a label's arrival to the first score by a version that learned from it
        version, and what the model says of its last update: loss, heldout_accuracy, ...
        rss                        bytes
        """
        counters = self._annotation.counters
        return {
            **self._metrics,
            **self._usage.figures(),
            "version": self._publication.version,
            "labels": len(self._store),
            "heldout_labels": len(self._store.held_out),
            "queue": len(self._queue),
            "in_flight": self._queue.in_flight,
            "let_go": self._queue.let_go,
            "abstained": counters["abstained"],
            "parse_failures": counters["unreadable"],
            "annotator_failures": counters["failures"],
            "duplicates": counters["duplicates"],
            "rss": _resident_bytes(),
        }

    async def close(self) -> None:
        """End the loops and close the log."""
        if self._training is not None:
            self._training.cancel()
        await self._annotating.close()
        await self._publication.close()
        self._threads.close()
        await asyncio.to_thread(self._store.close)

    # -- inside ---------------------------------------------------------------------------------

    def _resume(self) -> None:
        if (found := self._archive.newest()) is not None:
            version, state = found
            self._model.load(version, state)
            self._publication.publish(version, self._model.state())

    def _refill(self, count: int) -> None:
        if self._model.asks == 2:
            self._queue.offer(self._pairs.draw(count, self._store))

    def _labelled(self, items: Sequence[Item]) -> None:
        self._has_news = True
        self._usage.labelled(len(items), self._wall_clock())
        self._arrived.send()

    async def _train(self) -> None:
        """Make a version whenever there is something new to learn from, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not (self._has_news if self._model.asks else self._fragments):
                await self._arrived.wait(IDLE_S)
                continue
            began = loop.time()
            evidence = self._evidence()
            covered = self._usage.covered()
            async with asyncio.timeout(self._train_deadline_s):
                self._metrics, state = await self._threads.run(self._update, evidence)
            self._usage.published(self._model.version, covered)
            self._publication.publish(self._model.version, state)
            await asyncio.sleep(max(0.0, self._interval_s - (loop.time() - began)))

    def _evidence(self) -> Evidence:
        captions, self._captions = self._captions, Counter()
        fragments, self._fragments, self._has_news = self._fragments, [], False
        observations = [after_steps(self._spec, data) for data in fragments] if self._spec else []
        return Evidence(
            labels=tuple(self._store.examples),
            held_out=tuple(self._store.held_out),
            captions=captions,
            observations=observations,
        )

    def _update(self, evidence: Evidence) -> tuple[dict[str, float], State]:
        """Learn, and store first the labels and then the version that knows them; runs in a thread."""
        metrics = self._model.update(evidence)
        state = self._model.state()
        self._store.flush()
        self._archive.save(self._model.version, {**state, **self._model.training_state()})
        return metrics, state


def _resident_bytes() -> float:
    return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def build(config: RunConfig, run_folder: Path, describe: Callable[[], EnvironmentSpec] | None = None) -> RewardLearner:
    """Build the reward learner inside its own process; it resumes what `run_folder` holds.

    Args:
      describe: returns what a decision policy acts in; None for language policies.

    Raises:
      ConfigError: the configuration names no usable intrinsic reward.
      Corruption: what an earlier process stored is damaged.
    """
    torch.set_num_threads(1)
    spec = describe() if describe else None
    folder = Path(run_folder) / "intrinsic"
    epoch = begin_epoch(folder)
    fraction = config.exploration.annotation.held_out_fraction
    store = LabelStore(folder, epoch=epoch, held_out_fraction=fraction)
    archive = Archive(folder, store.refuse_if_stale)
    learner = RewardLearner(build_model(config, spec), store, archive, config, spec=spec)
    learner.start()
    return learner

"""One learner rank as an actor hosts it: a thread computes, the event loop keeps answering.

    ping, status      answered by the event loop, also in the middle of an update
    everything else   queued to the one compute thread, in order of arrival

torch keeps its thread count per calling thread, so it is set there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from configs.errors import RunError
from configs.language import ModelConfig, WarmStartConfig
from configs.learning import LearnerConfig
from learners.backends import meet
from learners.checkpoint import Checkpoint, load_checkpoint, retain, save_checkpoint
from learners.collective import Collective
from learners.decision_learner import DecisionLearner
from learners.models.adapter_folder import require_base
from learners.models.tokenizer import load_tokenizer
from learners.policy_learner import PolicyLearner
from learners.warm_start import supervised_items, warm_start

__all__ = ["LearnerRank"]

T = TypeVar("T")


class LearnerRank:
    """Hosts a `PolicyLearner`; all ranks of a group get the same calls in the same order."""

    def __init__(
        self,
        config: LearnerConfig,
        model: ModelConfig,
        folder: str | Path,
        *,
        rank: int = 0,
        address: str = "",
        seed: int = 0,
        total_updates: int = 1,
        make_learner: Callable[[Collective], DecisionLearner] | None = None,
    ) -> None:
        """Load the model, meeting the other ranks where there are any.

        Args:
          folder: model folder; of a language policy with weights and tokenizer.
          make_learner: makes another learner than that of a language policy.
          address: where `config.ranks` > 1 ranks meet, see `buffers.transport.free_address`.
          total_updates: updates of the whole run.

        Raises:
          ConfigError, DataError: as `PolicyLearner`.
          MemberLost: another rank did not come.
        """
        self._config, self._model, self._folder, self._seed = config, model, Path(folder), seed
        self._rank, self._address, self._total_updates = rank, address, total_updates
        self._make_learner = make_learner
        self._last: dict[str, float] = {}
        self.warm_start_progress = (0, float("nan"))
        """(supervised updates so far, nats per token of the last one)"""
        self._compute = ThreadPoolExecutor(
            1, thread_name_prefix="learner", initializer=torch.set_num_threads, initargs=(config.threads,)
        )
        self._learner: PolicyLearner | DecisionLearner = self._compute.submit(self._open).result()

    def ping(self) -> bool:
        """Answer at once."""
        return True

    def status(self) -> dict[str, Any]:
        """Return version, digest and count of what was trained."""
        p = self._learner.progress
        return {"version": p.version, "trained_digest": p.trained_digest, "trained_count": p.trained_count}

    async def update(self, table: pa.Table, version: int | None = None) -> dict[str, float]:
        """Train on a batch; return its metrics.

        Args:
          table: trajectories with rewards; the same for every rank.
          version: the version that this update makes. A call that is repeated because its answer
            was lost returns the metrics of the first one and trains nothing.

        Raises:
          RunError: another version is due, or updates keep failing.
        """
        return await self._in_thread(lambda: self._update(table, version))

    async def warm_start(self, examples: Sequence[tuple[str, str]], phase: WarmStartConfig) -> tuple[int, float]:
        """Train on (prompt, answer) texts; return what `learners.warm_start.warm_start` does."""

        def train() -> tuple[int, float]:
            assert isinstance(self._learner, PolicyLearner)
            tokenizer = load_tokenizer(self._folder, trust_remote_code=self._model.trust_remote_code)
            items = supervised_items(tokenizer, examples)
            torch.set_num_threads(phase.threads)
            try:
                return warm_start(self._learner, items, phase, seed=self._seed, report=self._note)
            finally:
                torch.set_num_threads(self._config.threads)

        return await self._in_thread(train)

    def _note(self, updates: int, loss: float) -> None:
        self.warm_start_progress = (updates, loss)

    async def weights(self) -> dict[str, NDArray[Any]]:
        """Return copies of the weights; bfloat16 comes as float32, which NumPy knows."""

        def copies() -> dict[str, NDArray[Any]]:
            held = self._learner.weights().items()
            return {n: np.array((w.float() if w.dtype == torch.bfloat16 else w).cpu().numpy()) for n, w in held}

        return await self._in_thread(copies)

    async def apply(self, function: Callable[[Any], T]) -> T:
        """Call `function` with the learner between two updates: how a publisher reads the weights."""
        return await self._in_thread(lambda: function(self._learner))

    async def digest(self) -> str:
        """Return the sha256 of the weights."""
        return await self._in_thread(self._learner.digest)

    async def save(
        self,
        root: str,
        lineage: str = "",
        epoch: int = 0,
        metrics: Mapping[str, float] | None = None,
        keep: tuple[int, int, str] | None = None,
        fence: Callable[[], None] = lambda: None,
    ) -> Checkpoint | None:
        """Write a checkpoint; all ranks are called, of which rank 0 writes and returns it.

        Args:
          keep: (newest to keep, best to keep, metric that says best); None deletes nothing.
          fence: see `save_checkpoint`.
        """

        def write() -> Checkpoint | None:
            state = self._learner.state()
            if self._rank > 0:
                return None
            saved = save_checkpoint(
                root, state, self._folder, lineage=lineage, epoch=epoch, metrics=metrics, fence=fence,
                adapter=self._model.adapter,
            )  # fmt: skip
            if keep is not None:
                retain(root, keep_last=keep[0], keep_best=keep[1], metric=keep[2])
            return saved

        return await self._in_thread(write)

    async def load(self, path: str) -> int:
        """Restore a checkpoint folder; return its version."""

        def restore() -> int:
            require_base(Path(path), self._folder)
            self._learner.load(load_checkpoint(path))
            return self._learner.version

        return await self._in_thread(restore)

    async def close(self) -> None:
        """Leave the group and end the thread."""
        await self._in_thread(self._collective.close)
        self._compute.shutdown()

    def _open(self) -> PolicyLearner | DecisionLearner:
        self._collective = meet(self._config, self._address, self._rank, self._model.device)
        if self._make_learner is not None:
            return self._make_learner(self._collective)
        return PolicyLearner(
            self._config,
            self._model,
            self._folder,
            collective=self._collective,
            seed=self._seed,
            total_updates=self._total_updates,
        )

    def _update(self, table: pa.Table, version: int | None) -> dict[str, float]:
        made = self._learner.version
        if version is not None and version == made and self._last:
            return self._last
        if version not in (None, made + 1):
            raise RunError(
                f"learner rank {self._rank} is at version {made}; it cannot make version {version}; resume the run"
            )
        self._last = self._learner.update(table)
        return self._last

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._compute, function)

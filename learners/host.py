"""What runs inside a learner's actor: one rank, its publisher and its checkpoints.

All work on the weights is queued to the rank's compute thread, so a snapshot, a publication and a
checkpoint always see the weights between two updates. Hashing works on a copy, off that path.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffers.digest import weights_digest
from buffers.environment_spec import EnvironmentSpec
from buffers.epochs import require_newest
from buffers.records.lineage import surviving_versions
from configs.errors import DataError, RunError
from configs.schema import RunConfig
from learners.checkpoint import Checkpoint, checkpoints
from learners.collective import Collective
from learners.decision_learner import DecisionLearner
from learners.models.load import check_model_folder, create_model_folder
from learners.models.weights import Layout, Receiver
from learners.numeric_identity import record_identity
from learners.policy_learner import PolicyLearner
from learners.publish import Publisher, PublishStats, World
from learners.publish import build as build_publisher
from learners.publish.object_store import ObjectStorePublisher, Packet
from learners.rank import LearnerRank

__all__ = ["LearnerHost", "build"]


class LearnerHost:
    """Serves the learner driver."""

    def __init__(
        self,
        rank: LearnerRank,
        config: RunConfig,
        run_folder: Path,
        *,
        publisher: Publisher | None,
        layout: Layout,
        epoch: int,
        examples: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._rank, self._config, self._run_folder, self._epoch = rank, config, run_folder, epoch
        self._publisher, self._layout, self._examples = publisher, layout, examples
        self._published: PublishStats | None = None
        self._rows: dict[int, tuple[asyncio.Task[str], str]] = {}

    def ping(self) -> dict[str, Any]:
        return {"version": self._rank.status()["version"]}

    async def warm_start(self) -> tuple[int, float]:
        """Run the supervised phase; return its updates and its last loss in nats per token."""
        return await self._rank.warm_start(await asyncio.to_thread(self._examples), self._config.warm_start)

    def warm_start_progress(self) -> tuple[int, float]:
        """Return the supervised updates so far and the last loss."""
        return self._rank.warm_start_progress

    async def resume(self) -> int | None:
        """Load the newest checkpoint of the surviving lineage; return its version, None before the first one.

        Raises:
          DataError: there are only checkpoints that the ledger does not know.
        """
        found = newest_surviving(self._run_folder)
        return None if found is None else await self._rank.load(str(found.path))

    async def update(self, table: pa.Table, version: int) -> dict[str, float]:
        """Train on a batch, making `version`; see `LearnerRank.update`."""
        return await self._rank.update(table, version)

    def receivers(self) -> list[Callable[[], Receiver]]:
        """Return the picklable factory of each worker's receiver, by seat."""
        if self._publisher is None:
            raise RunError("only rank 0 publishes; ask it for receivers")
        return [self._publisher.receiver(rank) for rank in range(1, self._config.rollout.workers + 1)]

    async def publish(self, version: int) -> PublishStats:
        """Make the present weights the newest version of every engine."""
        if self._publisher is None:
            raise RunError("only rank 0 publishes")
        publisher = self._publisher

        def write(learner: PolicyLearner | DecisionLearner) -> tuple[PublishStats, dict[str, Any]]:
            copies = {name: np.array(to_numpy(weight)) for name, weight in learner.weights().items()}
            return publisher.publish(version, learner.weights()), copies

        trained_digest = self._rank.status()["trained_digest"]
        published, copies = await self._rank.apply(write)
        self._published = published
        hashing = asyncio.create_task(asyncio.to_thread(weights_digest, copies))
        self._rows[version] = hashing, trained_digest
        return published

    async def publication(self, version: int) -> tuple[float, int]:
        """Wait for the publication of `version`; return its seconds and bytes."""
        while self._published is None or self._published.version != version:
            await asyncio.sleep(0.001)
        return self._published.transfer_s, self._published.bytes

    async def snapshot(self, version: int) -> tuple[Layout, Packet]:
        """Return the present weights, to be pinned by an evaluation."""
        pack = ObjectStorePublisher(self._layout, self._epoch)
        return self._layout, await self._rank.apply(lambda learner: pack.publish(version, learner.weights()))

    async def version_row(self, version: int) -> dict[str, Any]:
        """Return what the ledger stores of a published version."""
        hashing, trained_digest = self._rows.pop(version)
        return {"version": version, "weights_sha256": await hashing, "trained_digest": trained_digest}

    async def save(self, figure: float | None) -> str:
        """Write a checkpoint of the present weights, whose evaluation gave `figure`; return its folder."""
        keep, headline = self._config.checkpoint, self._config.headline
        saved = await self._rank.save(
            str(self._run_folder / "checkpoints"),
            epoch=self._epoch,
            metrics={} if figure is None else {headline: figure},
            keep=(keep.keep_last, keep.keep_best, headline),
            fence=partial(require_newest, self._run_folder / "ledger", self._epoch),
        )
        return str(saved.path)

    async def close(self) -> None:
        """Remove what the publisher left, end the thread."""
        if self._publisher is not None:
            self._publisher.close()
        await self._rank.close()


def newest_surviving(run_folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose training is the ledger's; a fenced learner can have left a later one.

    Raises:
      DataError: there are checkpoints, and none is of the ledger's lineage.
    """
    root = run_folder / "checkpoints"
    known = {(row.version, row.trained_digest) for row in surviving_versions(run_folder)}
    held = checkpoints(root)
    found = max((c for c in held if (c.version, c.trained_digest) in known), key=lambda c: c.version, default=None)
    if held and found is None:
        raise DataError(
            f"{held[-1].path} is of no version that the ledger beside it has; restore {run_folder}/ledger from a copy"
        )
    return found


def to_numpy(weight: Tensor) -> NDArray[Any]:
    """Return a tensor for hashing; bfloat16, which NumPy lacks, as its bits."""
    return (weight.view(torch.int16) if weight.dtype is torch.bfloat16 else weight).cpu().numpy()


def prepare_model(config: RunConfig, run_folder: Path) -> Path:
    """Return the model folder of a run, making the tiny model where none is given."""
    if config.model.path is not None:
        return Path(config.model.path)
    folder = run_folder / "model"
    if not folder.exists():
        # Ranks do this side by side: the folder appears whole, and the first one wins; all make the same.
        draft = Path(tempfile.mkdtemp(prefix=".model-", dir=run_folder))
        create_model_folder(config.model, draft, config.seed)
        try:
            draft.rename(folder)
        except OSError:
            shutil.rmtree(draft)
    return folder


def prepare_environment(
    config: RunConfig, run_folder: Path, describe: Callable[[], EnvironmentSpec]
) -> EnvironmentSpec:
    """Return what the policy acts in; written to the model folder of a run by whoever is first."""
    folder = run_folder / "model"
    if not folder.exists():
        draft = Path(tempfile.mkdtemp(prefix=".model-", dir=run_folder))
        (draft / "environment.json").write_text(describe().to_json())
        (draft / "policy.json").write_text(json.dumps(config.policy, indent=1))
        try:
            draft.rename(folder)
        except OSError:
            shutil.rmtree(draft)
    return EnvironmentSpec.from_json((folder / "environment.json").read_text())


def open_rank(
    config: RunConfig, run_folder: Path, describe: Callable[[], EnvironmentSpec], *, rank: int = 0, address: str = ""
) -> LearnerRank:
    """Return a rank with the learner that the configuration asks for."""
    settings: dict[str, Any] = {"rank": rank, "address": address, "seed": config.seed, "total_updates": config.updates}
    if config.is_decision:
        spec = prepare_environment(config, run_folder, describe)

        def make(collective: Collective) -> DecisionLearner:
            return DecisionLearner(config, spec, collective=collective, seed=config.seed, total_updates=config.updates)

        return LearnerRank(config.learner, config.model, run_folder / "model", make_learner=make, **settings)
    folder = prepare_model(config, run_folder)
    check_model_folder(config.model, folder, config.rollout.context_length)
    return LearnerRank(config.learner, config.model, folder, **settings)


async def build(
    config: RunConfig,
    run_folder: Path,
    epoch: int,
    address: str,
    examples: Callable[[], Sequence[tuple[str, str]]],
    describe: Callable[[], EnvironmentSpec],
    rank: int,
) -> LearnerHost:
    """Build learner rank `rank` inside its own process.

    Args:
      describe: returns what a decision policy acts in.
    """
    learner = open_rank(config, run_folder, describe, rank=rank, address=address)
    layout = await learner.apply(lambda policy: Layout.of(policy.weights()))
    publisher = None
    if rank == 0:
        record_identity(run_folder, epoch, config.model.device)
        name = f"headrace-{config.name}-{run_folder.stat().st_ino}"
        world = World(receivers=config.rollout.workers)
        publisher = build_publisher(config.publish, name=name, layout=layout, epoch=epoch, world=world)
    return LearnerHost(learner, config, run_folder, publisher=publisher, layout=layout, epoch=epoch, examples=examples)

"""What runs inside a learner's actor: one rank, its publisher and its checkpoints.

All work on the weights is queued to the rank's compute thread, so a snapshot, a publication and a
checkpoint always see the weights between two updates. Hashing works on a copy, off that path.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from buffers.environment_spec import EnvironmentSpec
from buffers.epochs import require_newest
from buffers.load import LoadMeter
from buffers.records.lineage import surviving_versions
from buffers.run_folder import run_key
from configs.errors import DataError, RunError
from configs.language import ModelConfig
from configs.schema import RunConfig
from learners.checkpoint import Checkpoint, checkpoints, write_model
from learners.collective import Collective
from learners.decision_learner import DecisionLearner
from learners.hashing import BucketHash
from learners.models.adapter_folder import whole_weights
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
        self._rows: dict[int, tuple[BucketHash, str]] = {}
        self._updating_s = 0.0
        self._load = LoadMeter(lambda: self._updating_s)

    def ping(self) -> dict[str, Any]:
        return {"version": self._rank.status()["version"], "load": {"learner": self._load.report()}}

    async def warm_start(self) -> tuple[int, float]:
        """Run the supervised phase; return its updates and its last loss in nats per token."""
        made = await self._rank.warm_start(await asyncio.to_thread(self._examples), self._config.warm_start)
        model = prepare_model(self._config, self._run_folder)
        await self._rank.apply(
            partial(write_reference, self._run_folder, self._config.model, model, self._publisher is not None)
        )
        return made

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
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._rank.update(table, version)
        finally:
            self._updating_s += loop.time() - began

    def receivers(self) -> list[Callable[[], Receiver]]:
        """Return the picklable factory of the receiver of each holder of the policy, by seat."""
        if self._publisher is None:
            raise RunError("only rank 0 publishes; ask it for receivers")
        return [self._publisher.receiver(rank) for rank in range(1, self._config.rollout.policies + 1)]

    async def publish(self, version: int) -> PublishStats | None:
        """Make the present weights the newest version of every engine; may be repeated for those that missed it.

        All ranks are called: they hand their parts to rank 0, which alone returns something.
        """
        publisher, limit = self._publisher, self._config.publish.bucket_bytes
        if publisher is None:
            return await self._rank.apply(lambda learner: exhaust(learner.buckets(limit)))
        first = self._published is None or self._published.version != version
        hashing = BucketHash()
        trained_digest = self._rank.status()["trained_digest"]

        def write(learner: PolicyLearner | DecisionLearner) -> PublishStats:
            buckets = learner.buckets(limit)
            return publisher.publish(version, hashing.watch(buckets) if first else buckets)

        self._published = await self._rank.apply(write)
        if first:
            self._rows[version] = hashing, trained_digest
        return self._published

    async def publication(self, version: int) -> PublishStats:
        """Wait for the newest publication of `version`; return what it cost, without the weights."""
        while self._published is None or self._published.version != version:
            await asyncio.sleep(0.001)
        return self._published.without_weights()

    async def waiting(self) -> list[str]:
        """Return who could take the newest version if it were published again."""
        publisher = self._publisher
        return [] if publisher is None else await self._rank.apply(lambda _: publisher.waiting())

    async def snapshot(self, version: int) -> tuple[Layout, Packet] | None:
        """Return the present weights, to be pinned by an evaluation; all ranks are called, as for `publish`."""
        limit = self._config.publish.bucket_bytes
        if self._publisher is None:
            return await self._rank.apply(lambda learner: exhaust(learner.buckets(limit)))
        pack = ObjectStorePublisher(self._layout, self._epoch)
        return self._layout, await self._rank.apply(lambda learner: pack.publish(version, learner.buckets(limit)))

    async def version_row(self, version: int) -> dict[str, Any]:
        """Return what the ledger stores of a published version."""
        hashing, trained_digest = self._rows.pop(version)
        return {
            "version": version,
            "weights_sha256": await asyncio.to_thread(hashing.result),
            "trained_digest": trained_digest,
        }

    async def save(self, figure: float | None) -> str:
        """Write a checkpoint of the present weights, whose evaluation gave `figure`; return its folder.

        All ranks are called; ranks but the first hand over their parts, and return "".
        """
        keep, headline = self._config.checkpoint, self._config.headline
        saved = await self._rank.save(
            str(self._run_folder / "checkpoints"),
            epoch=self._epoch,
            metrics={} if figure is None else {headline: figure},
            keep=(keep.keep_last, keep.keep_best, headline),
            fence=partial(require_newest, self._run_folder / "ledger", self._epoch),
        )
        return "" if saved is None else str(saved.path)

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


def exhaust(buckets: Iterable[Mapping[str, Tensor]]) -> None:
    """Take part in gathering what another rank wants."""
    for _ in buckets:
        pass


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


def write_reference(
    run_folder: Path, model: ModelConfig, model_folder: Path, first: bool, learner: PolicyLearner
) -> None:
    """Write the present weights to `<run>/reference`, a model folder: where reward models may begin.

    Args:
      first: whether this is rank 0, which writes; the others hand over their parts.
    """
    weights = learner.state().model
    if not first or (run_folder / "reference").exists():
        return  # a run that begins again makes the same
    draft = Path(tempfile.mkdtemp(prefix=".reference-", dir=run_folder))
    write_model(draft, whole_weights(model, model_folder, weights), model_folder)
    draft.rename(run_folder / "reference")


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
    layout = await learner.apply(lambda policy: policy.layout)
    publisher = None
    if rank == 0:
        record_identity(run_folder, epoch, config.model.device)
        world = World(receivers=config.rollout.policies)
        publisher = build_publisher(config.publish, name=run_key(run_folder), layout=layout, epoch=epoch, world=world)
    return LearnerHost(learner, config, run_folder, publisher=publisher, layout=layout, epoch=epoch, examples=examples)

"""How new weights reach the engines: one interface, three ways to move one flat buffer.

    publisher = build(config.publish, name=..., layout=Layout.of(tensors), epoch=..., world=...)
    make = publisher.receiver(rank)           # picklable; an engine's process calls it once
    stats = publisher.publish(version, buckets)     # of at most `publish.bucket_bytes`, in the layout's order

    shared_memory   one write into /dev/shm that every receiver of the host maps; the default
    object_store    one contiguous array that the driver puts into the store: the `Packet` it got back
    collective      gloo broadcast over TCP, for engines on other hosts

Weights that are cut over ranks are gathered a bucket at a time, while the one before it is sent. Receivers
verify checksums and hand out whole versions only; one that is slow or gone keeps nobody waiting.

A back end that runs again after a restart is given a higher epoch; receivers and shared state then
refuse what the older one still sends. To add one, write a class with `publish`, `receiver` and
`close`, and name it here; tests/unit/test_publish_conformance.py says what it must do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import torch

from configs.errors import ConfigError
from configs.learning import PublishConfig
from configs.registry import construct
from learners.models.weights import Layout, Receiver

__all__ = ["PUBLISHERS", "Buckets", "PublishStats", "Publisher", "World", "build", "require_newer"]

Buckets = Iterable[Mapping[str, torch.Tensor]]
"""Tensors by name, some at a time, in the order of the layout."""

PUBLISHERS = {
    "shared_memory": "learners.publish.shared_memory:SharedMemoryPublisher",
    "object_store": "learners.publish.object_store:ObjectStorePublisher",
    "collective": "learners.publish.collective:CollectivePublisher",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishStats:
    """What one publication cost its publisher."""

    version: int
    bytes: int
    transfer_s: float
    """Seconds to copy or send the bytes, waiting for receivers included."""
    checksum_s: float
    missed: int = 0
    """Receivers that answer and did not get it: publish it again."""

    def without_weights(self) -> PublishStats:
        """Return the figures alone."""
        return PublishStats(**{field.name: getattr(self, field.name) for field in fields(PublishStats)})


@dataclass(frozen=True, kw_only=True)
class World:
    """Who takes part in collective publishing: the publisher is rank 0, receivers are 1 to `receivers`."""

    receivers: int
    address: str = "127.0.0.1"
    """Where the publisher listens, as its receivers reach it."""
    port: int = 0
    """0 takes a free port."""


class Publisher(Protocol):
    """Implemented by every class of `PUBLISHERS`."""

    def publish(self, version: int, buckets: Buckets) -> PublishStats:
        """Make the tensors of all buckets together the newest weights.

        Raises:
          ValueError: `version` is not above the last one, or a tensor does not fit the layout.
          StaleEpoch: a publisher of a newer epoch has taken over.
        """
        ...

    def waiting(self) -> list[str]:
        """Return who could take the newest version if it were published again."""
        ...

    def receiver(self, rank: int) -> Callable[[], Receiver]:
        """Return a picklable factory of the receiver of engine `rank`, counted from 1."""
        ...

    def close(self) -> None:
        """Remove everything this publisher left in memory, files or ports."""
        ...


def build(section: PublishConfig, *, name: str, layout: Layout, epoch: int, world: World | None = None) -> Publisher:
    """Build the configured publisher.

    Args:
      name: of the weights on this host, see `run_folder.run_key`.
      epoch: of the run, at least 1; higher after each restart.
      world: needed by `collective` only.

    Raises:
      ConfigError: the back end is unknown or lacks its world.
      StaleEpoch: a publisher of a newer epoch is at work.
    """
    if section.backend == "collective" and world is None:
        raise ConfigError("publish.backend is 'collective', which needs a world; say how many engines receive")
    patience = {"deadline_s": section.deadline_s, "slow_after_s": section.slow_after_s}
    where = {"name": name, "layout": layout, "epoch": epoch, "world": world, **patience}
    publisher: Publisher = construct(PUBLISHERS, section.backend, "publish.backend", **where)
    return publisher


def require_newer(version: int, last: int) -> None:
    """Raise ValueError unless `version` is above `last`: version numbers are never reused."""
    if version <= last:
        raise ValueError(f"version {version} is not above version {last}, published before; numbers are never reused")

"""Publishing through an object store: one contiguous array per version.

The publisher returns a `Packet`; the driver puts it into its store once and passes the reference to
every engine's owner, whose receiver is given what arrives. Arrays out of a store are read-only and
shared, so the receiver copies them: that also frees the store's memory at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import Corruption, DeadlineExceeded, StaleEpoch
from learners.models.weights import Layout, Receiver, checksum, fill_all
from learners.publish import Buckets, PublishStats, require_newer

__all__ = ["ObjectStorePublisher", "ObjectStoreReceiver", "Packet"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Packet(PublishStats):
    """One version of the weights, ready to travel."""

    epoch: int
    fingerprint: int
    checksum: int
    buffer: NDArray[np.uint8]
    """[bytes]"""

    def open(self, layout: Layout) -> tuple[int, dict[str, torch.Tensor]]:
        """Return (version, tensors) in memory of their own.

        Raises:
          Corruption: the bytes are not those that were published, or of another layout.
        """
        origin = f"weights version {self.version} of epoch {self.epoch}"
        if self.fingerprint != layout.fingerprint:
            raise Corruption(f"{origin} have another layout than this engine's; load one model everywhere")
        if checksum(self.buffer.data) != self.checksum:
            raise Corruption(f"{origin} fail their checksum; publish them again")
        return self.version, layout.views(self.buffer.copy())


class ObjectStorePublisher:
    """Packs weights into packets."""

    def __init__(self, layout: Layout, epoch: int) -> None:
        self._layout, self._epoch, self._last = layout, epoch, -1

    def publish(self, version: int, buckets: Buckets) -> Packet:
        """Return the packet to be delivered; see `Publisher.publish`."""
        require_newer(version, self._last)
        started = time.perf_counter()
        # A new array each time: the store may still be reading the last one.
        buffer = self._layout.allocate()
        fill_all(self._layout.views(buffer), buckets)
        packed = time.perf_counter()
        digest = checksum(buffer.data)
        self._last = version
        return Packet(
            version=version,
            bytes=self._layout.size,
            transfer_s=packed - started,
            checksum_s=time.perf_counter() - packed,
            epoch=self._epoch,
            fingerprint=self._layout.fingerprint,
            checksum=digest,
            buffer=buffer,
        )

    def waiting(self) -> list[str]:
        """Return nobody: whoever delivers the packets knows who lacks one."""
        return []

    def receiver(self, rank: int) -> Callable[[], Receiver]:
        return partial(ObjectStoreReceiver, self._layout)

    def close(self) -> None:
        """Nothing is held here: packets belong to the store."""


class ObjectStoreReceiver:
    """Keeps the newest packet delivered until it is taken."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._packet: Packet | None = None
        self._seen = (0, -1)  # (epoch, version)

    def offer(self, packet: Packet) -> None:
        """Accept a packet if it is the newest; a late older version is ignored.

        Raises:
          StaleEpoch: a publisher of a newer epoch has delivered before.
        """
        if packet.epoch < self._seen[0]:
            known = f"epoch {self._seen[0]} has published since"
            raise StaleEpoch(f"weights version {packet.version} are of epoch {packet.epoch}; {known}: stop its process")
        if (packet.epoch, packet.version) > self._seen:
            self._packet, self._seen = packet, (packet.epoch, packet.version)

    def poll(self) -> int | None:
        return self._packet.version if self._packet else None

    def take(self) -> tuple[int, dict[str, torch.Tensor]]:
        if self._packet is None:
            raise DeadlineExceeded("no weights were delivered since the last take; poll first")
        packet, self._packet = self._packet, None
        return packet.open(self._layout)

    def close(self) -> None:
        self._packet = None

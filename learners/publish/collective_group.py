"""What publisher and receivers of a collective share: the words in the store, and the groups that move the bytes.

The groups are built directly, so that they live beside the default group of the training ranks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import distributed

from learners.models.weights import Bytes

__all__ = ["POLL_S", "REFUSED", "Announcement", "Go", "broadcast", "dist", "join"]

POLL_S = 0.002
"""Between looks at the store."""
CHUNK_BYTES = 4 << 20
REFUSED = "refused"
"""Begins the token of a receiver that has seen a newer epoch."""
dist: Any = distributed  # its type stubs lack most of what is used here


class Announcement(NamedTuple):
    """What the publisher is about to send, and to whom."""

    sequence: int
    version: int
    members: list[str]
    """Tokens of the receivers that lack it."""


class Go(NamedTuple):
    """Who takes part: the publisher is rank 0 of the group, these follow in order."""

    group: int
    members: list[str]


def join(store: Any, number: int, rank: int, size: int, address: str, deadline_s: float) -> Any:
    """Build gloo group `number`; returns once all `size` members have called this."""
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=deadline_s)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
    return dist.ProcessGroupGloo(dist.PrefixStore(f"group/{number}", store), rank, size, options)


def broadcast(group: Any, data: Bytes, deadline_s: float) -> None:
    """Send `data` from rank 0 into everybody's `data`, a chunk at a time, so that little is in flight."""
    options = dist.BroadcastOptions()
    options.rootRank = 0
    for chunk in torch.from_numpy(data).split(CHUNK_BYTES):
        group.broadcast([chunk], options).wait(timedelta(seconds=deadline_s))

"""The sha256 of weights that come in buckets, computed beside the path on which they travel."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffers.digest import array_digest, joint_digest

__all__ = ["BucketHash", "to_numpy"]

BACKLOG = 2
"""Buckets whose copies may wait; more of them would be the whole model."""


class BucketHash:
    """Copies what passes through, and hashes the copies in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._room = threading.Semaphore(BACKLOG)
        self._digests: dict[str, bytes] = {}

    def watch(self, buckets: Iterable[Mapping[str, Tensor]]) -> Iterator[Mapping[str, Tensor]]:
        """Yield the buckets; wait where hashing falls more than `BACKLOG` of them behind."""
        for tensors in buckets:
            self._room.acquire()
            self._thread.submit(self._hash, {name: np.array(to_numpy(tensor)) for name, tensor in tensors.items()})
            yield tensors

    def result(self) -> str:
        """Wait for the last bucket; return what `weights_digest` says of all tensors together."""
        self._thread.shutdown()
        return joint_digest(self._digests)

    def _hash(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._digests |= {name: array_digest(array) for name, array in arrays.items()}
        self._room.release()


def to_numpy(weight: Tensor) -> NDArray[Any]:
    """Return a tensor for hashing; bfloat16, which NumPy lacks, as its bits."""
    return (weight.view(torch.int16) if weight.dtype is torch.bfloat16 else weight).cpu().numpy()

"""Digests that two parties compute apart and then compare: which ids were trained, which weights result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["chain_digest", "weights_digest"]


def chain_digest(previous: str, ids: Iterable[str]) -> str:
    """Return the digest of a lineage after one more update.

    Args:
      previous: digest before the update; "" before the first.
      ids: trajectory ids that the update consumed, in any order.
    """
    return hashlib.sha256((previous + "\n".join(sorted(ids))).encode()).hexdigest()


def weights_digest(tensors: Mapping[str, Any]) -> str:
    """Return the sha256 over names, in sorted order, and the bytes of their arrays.

    Args:
      tensors: name -> anything NumPy can view without a copy (a CPU tensor, an array). bfloat16
        has no NumPy type: view it as int16 first.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(np.asarray(tensors[name])).tobytes())
    return digest.hexdigest()

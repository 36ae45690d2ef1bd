"""Digests that two parties compute apart and then compare: which ids were trained, which weights result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["array_digest", "chain_digest", "joint_digest", "weights_digest"]


def chain_digest(previous: str, ids: Iterable[str]) -> str:
    """Return the digest of a lineage after one more update.

    Args:
      previous: digest before the update; "" before the first.
      ids: trajectory ids that the update consumed, in any order.
    """
    return hashlib.sha256((previous + "\n".join(sorted(ids))).encode()).hexdigest()


def weights_digest(tensors: Mapping[str, Any]) -> str:
    """Return the sha256 over names, in sorted order, and the digests of their arrays.

    Args:
      tensors: name -> anything NumPy can view without a copy (a CPU tensor, an array). bfloat16
        has no NumPy type: view it as int16 first.
    """
    return joint_digest({name: array_digest(tensor) for name, tensor in tensors.items()})


def array_digest(array: Any) -> bytes:
    """Return the sha256 of the bytes of anything NumPy can view."""
    return hashlib.sha256(np.ascontiguousarray(np.asarray(array)).data).digest()


def joint_digest(digests: Mapping[str, bytes]) -> str:
    """Return the `weights_digest` of arrays of which the `array_digest` is known, by name."""
    joint = hashlib.sha256()
    for name in sorted(digests):
        joint.update(name.encode() + b"\0" + digests[name])
    return joint.hexdigest()

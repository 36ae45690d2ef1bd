"""Weights on their way into vLLM's processes: one file of shared memory that has no name.

The workers open it through the owner's file descriptor, so nothing is left behind when the owner is killed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from learners.models.weights import Layout

__all__ = ["SharedWeights"]


class SharedWeights:
    """Room for the tensors of one layout."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        layout = Layout.of(tensors)
        self.layout = layout.to_json()
        self._file = os.memfd_create("headrace-weights")
        os.ftruncate(self._file, layout.size)
        self._views = layout.views(np.frombuffer(mmap.mmap(self._file, layout.size), np.uint8))

    @property
    def path(self) -> str:
        """Where other processes of this user find the file."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the tensors by others of the same names, shapes and types."""
        for name, view in self._views.items():
            view.copy_(tensors[name].detach())

    def close(self) -> None:
        """Free the memory once the mappings are gone."""
        os.close(self._file)

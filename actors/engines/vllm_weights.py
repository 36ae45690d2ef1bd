"""Weights on their way into vLLM's processes: one file of shared memory that has no name.

The workers open it through the owner's file descriptor, so nothing is left behind when the owner is killed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.language import ModelConfig
from learners.models.adapter import Installer
from learners.models.load import read_weights
from learners.models.weights import Layout, fill

__all__ = ["SharedWeights"]


class SharedWeights:
    """Room for all weights of a model, into which versions are put."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], model: ModelConfig, folder: Path) -> None:
        """Allocate the room.

        Args:
          shapes: of the weights by name.
          folder: the model's; where an adapter is published, the room begins with its weights.
        """
        dtype = getattr(torch, model.dtype)
        layout = Layout.of({name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()})
        self.layout = layout.to_json()
        self._file = os.memfd_create("headrace-weights")
        os.ftruncate(self._file, layout.size)
        views = layout.views(np.frombuffer(mmap.mmap(self._file, layout.size), np.uint8))
        if model.adapter.rank:
            held = read_weights(folder)
            fill(views, {name: held[name].to(dtype) for name in views})
        self._installer = Installer(views, model.adapter)

    @property
    def path(self) -> str:
        """Where other processes of this user find the file."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def install(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Make the weights those of a version; see `Installer.install`."""
        self._installer.install(version, tensors)

    def close(self) -> None:
        """Free the memory once the mappings are gone."""
        os.close(self._file)

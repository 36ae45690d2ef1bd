"""Components whose construction turns safety off in their process, to measure what it costs.

sampler   the buffer's process: ledger and payloads are not written
loss      the learner's process: weights are neither hashed nor given a checksum
engine    the worker's process: checksums of weights are not compared
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import learners.host
import learners.models.weights
from actors.engines.base import Engine
from actors.engines.factory import torch_engine
from buffers.samplers import Fifo, Sampler
from buffers.segments import SegmentWriter
from learners.losses.base import Loss
from learners.losses.clipped_surrogate import ClippedSurrogate

__all__ = ["engine", "loss", "sampler"]


def sampler() -> Sampler:
    """First completed, first trained; nothing is stored."""

    def forget(self: SegmentWriter, rows: Any, urgent: bool = False) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    SegmentWriter._enqueue = forget  # type: ignore[method-assign]
    return Fifo()


def loss() -> Loss:
    """The default loss."""
    learners.host.weights_digest = lambda weights: ""
    learners.models.weights.checksum = lambda data: 0
    return ClippedSurrogate()


def engine(folder: Any, model: Any, tokenizer: Any, slots: int, context_length: int, prefill_chunk: int) -> Engine:
    """The built-in engine."""
    learners.models.weights.checksum = lambda data: 0
    return torch_engine(folder, model, tokenizer, slots, context_length, prefill_chunk)

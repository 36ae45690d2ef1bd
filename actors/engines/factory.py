"""How each engine of `ENGINES` is made from a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.engines.base import Engine
from actors.engines.torch_engine import TorchEngine
from configs.schema import ModelConfig
from learners.models.load import load_network

__all__ = ["torch_engine"]


def torch_engine(
    folder: Path,
    model: ModelConfig,
    tokenizer: Any,
    slots: int,
    context_length: int,
    prefill_chunk: int,
) -> Engine:
    """The built-in engine: fixed slots, static cache, exact log-probabilities; CPU and CUDA."""
    engine = TorchEngine(
        load_network(model, folder),
        tokenizer,
        slots=slots,
        context_length=context_length,
        prefill_chunk=prefill_chunk,
        device=model.device,
    )
    engine.version = -1  # the folder's weights are older than anything published
    return engine

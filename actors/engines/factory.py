"""How each engine of `ENGINES` is made from a model folder."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.engines.base import Engine
from actors.engines.torch_engine import TorchEngine
from configs.errors import ConfigError
from configs.language import ModelConfig
from learners.models.adapter_folder import base_folder, read_adapter
from learners.models.load import load_network

__all__ = ["begun", "check_vllm", "torch_engine", "vllm_engine"]

BEFORE_ANYTHING = -1
"""Version of the folder's weights: older than anything published."""


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
        load_network(model, base_folder(folder)),
        tokenizer,
        slots=slots,
        context_length=context_length,
        prefill_chunk=prefill_chunk,
        device=model.device,
        adapter=model.adapter,
    )
    return begun(engine, folder)


def vllm_engine(
    folder: Path,
    model: ModelConfig,
    tokenizer: Any,
    slots: int,
    context_length: int,
    seed: int,
    log_folder: Path,
    **options: Any,
) -> Engine:
    """vLLM in processes of its own, for models beyond the built-in engine; CPU and CUDA.

    Args:
      options: further arguments of vLLM's `AsyncEngineArgs`, for example `tensor_parallel_size`.
    """
    check_vllm(options)
    from actors.engines.vllm_engine import VllmEngine

    engine = VllmEngine(
        base_folder(folder), model, tokenizer,
        slots=slots, context_length=context_length, seed=seed, version=BEFORE_ANYTHING,
        log=log_folder.resolve() / f"vllm-{os.getpid()}.log", options=options,
    )  # fmt: skip
    return begun(engine, folder)


def begun(engine: Engine, folder: Path) -> Engine:
    """Return an engine with the weights of a folder: what it was built with, or an adapter added to that."""
    if adapter := read_adapter(folder):
        engine.load_weights(BEFORE_ANYTHING, adapter)
    engine.version = BEFORE_ANYTHING
    return engine


def check_vllm(options: Mapping[str, Any]) -> None:
    """Find out whether vLLM is here and takes the options of its section.

    Raises:
      ConfigError: vLLM is not installed, or an option is unknown or not the user's to set.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "engine is 'vllm', which is not installed; run `make setup-vllm` (CPU) or install headrace[vllm] (CUDA)"
        )
    with warnings.catch_warnings():
        # What its many libraries say on import is nothing that a person at the terminal can act on.
        warnings.simplefilter("ignore")
        logging.getLogger("vllm").addHandler(logging.NullHandler())
        from actors.engines.vllm_start import check_options
    check_options(options)

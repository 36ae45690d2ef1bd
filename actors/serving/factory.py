"""How each server of `SERVERS` is made; vLLM is imported only when it is asked for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from actors.engines.factory import check_vllm, torch_engine
from actors.serving.engine_server import EngineServer
from configs.language import ModelConfig
from configs.model_pool import ModelPoolConfig
from learners.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from actors.serving.vllm_server import VllmServer

__all__ = ["check_vllm_options", "torch_server", "vllm_server"]

PREFILL_CHUNK = 128


def torch_server(config: ModelPoolConfig, log_folder: Path, name: str) -> EngineServer:
    """The built-in engine, in the member's own process; it has nothing to log.

    Raises:
      DataError: the folder cannot be used.
    """
    tokenizer = load_tokenizer(Path(config.path), trust_remote_code=config.trust_remote_code)
    chunk = min(PREFILL_CHUNK, config.context_length)
    engine = torch_engine(Path(config.path), _model(config), tokenizer, config.slots, config.context_length, chunk)
    return EngineServer(engine, tokenizer, name)


async def vllm_server(config: ModelPoolConfig, log_folder: Path, name: str) -> VllmServer:
    """vLLM in processes of its own.

    Raises:
      ConfigError: vLLM is not installed, or an option is unknown.
      RunError: vLLM did not start.
    """
    check_vllm_options(config, name)
    from actors.serving.vllm_server import start_server

    return await start_server(config, _model(config), log_folder, name)


def check_vllm_options(config: ModelPoolConfig, name: str) -> None:
    """Find out whether vLLM is here and takes the options of a pool.

    Raises:
      ConfigError: vLLM is not installed, or an option is unknown or not the user's to set.
    """
    check_vllm({})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its libraries say on import is nothing that a user can act on
        from actors.serving.vllm_options import check
    check(config, name)


def _model(config: ModelPoolConfig) -> ModelConfig:
    return ModelConfig(
        path=config.path, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code
    )

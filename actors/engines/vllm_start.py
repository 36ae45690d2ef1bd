"""Starting vLLM: its arguments, its environment, and where its messages go."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging.config
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from actors.engines import vllm_worker
from configs.errors import ConfigError, RunError
from configs.language import ModelConfig
from learners.models.load import weight_files

__all__ = ["check_options", "engine_arguments", "start"]

PREFILL_TOKENS = 4096
"""Of one step on CPUs; vLLM itself would take 2048 or more, by the machine."""
CPU_CACHE_BYTES = 1 << 30

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # One place more than the context: to score a sequence vLLM must be let sample the token after it.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    # Bound to cores, all engines of a host would share the same one.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""While vLLM starts; its processes inherit it."""


OURS = frozenset(
    {
        "model",
        "trust_remote_code",
        "dtype",
        "seed",
        "max_model_len",
        "max_num_seqs",
        "logprobs_mode",
        "max_logprobs",
        "async_scheduling",
        "generation_config",
        "worker_extension_cls",
    }
)
"""Arguments that other settings give, or that the engine's promises rest on."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that vLLM does not know, and those that are not the user's.

    Raises:
      ConfigError: names the option.
    """
    settable = {field.name for field in dataclasses.fields(AsyncEngineArgs)}.difference(OURS)
    for key in options:
        if key in OURS:
            raise ConfigError(f"engines.vllm.{key} is set by the engine itself; remove it")
        if key not in settable:
            near = ", ".join(difflib.get_close_matches(key, settable, n=3, cutoff=0.0))
            raise ConfigError(f"engines.vllm.{key} is no argument of AsyncEngineArgs; did you mean one of {near}?")


def engine_arguments(
    folder: Path, model: ModelConfig, slots: int, context_length: int, seed: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of `AsyncEngineArgs`: ours, and the user's `options` beside them.

    Raises:
      ConfigError: see `check_options`.
    """
    check_options(options)
    on_cpu = model.device == "cpu"
    ours = {
        "model": str(folder),
        "trust_remote_code": model.trust_remote_code,
        "dtype": model.dtype,
        "seed": seed,
        "max_model_len": context_length + 1,
        "max_num_seqs": slots,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        # A label is put on tokens when they leave the engine, so nothing may be sampled ahead of that.
        "async_scheduling": False,
        "generation_config": "vllm",
        "worker_extension_cls": f"{vllm_worker.__name__}.{vllm_worker.WorkerExtension.__name__}",
    }
    assert ours.keys() == OURS
    usual: dict[str, Any] = {"enforce_eager": on_cpu, "disable_log_stats": True, "use_tqdm_on_load": False}
    usual["load_format"] = "safetensors"  # nothing is unpickled
    if on_cpu:
        usual["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        # A prompt that is prefilled in parts would rewind its generator, which CPU generators cannot (vLLM 0.32).
        usual["enable_chunked_prefill"] = False
        usual["max_num_batched_tokens"] = max(PREFILL_TOKENS, context_length + 1)
    return {**ours, **usual, **options}


async def start(arguments: Mapping[str, Any], log: Path, threads: int) -> AsyncLLM:
    """Start vLLM's processes and load the model; takes half a minute on a CPU.

    Args:
      log: file for all that vLLM and its libraries say.
      threads: of a worker process on CPUs.

    Raises:
      RunError: one of its processes failed.
    """
    settings = {
        **ENVIRONMENT,
        "OMP_NUM_THREADS": str(threads),
        "VLLM_LOGGING_CONFIG_PATH": str(write_logging(log)),
        vllm_worker.OWNER: str(os.getpid()),
    }
    if arguments["enforce_eager"]:
        # The sampler compiles one function all the same, for 20 s and with a C++ compiler.
        settings["TORCH_COMPILE_DISABLE"] = "1"
    with environment(settings), printing_to(log), model_files(Path(arguments["model"])) as files:
        try:
            llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**{**arguments, "model": str(files)}))
        except RuntimeError as error:
            raise RunError(f"vLLM did not start: {error}; its log says why: {log}") from error
    await llm.collective_rpc("forget_shared_names")  # every process has opened them by now
    return llm


def write_logging(log: Path) -> Path:
    """Send vLLM's messages to the log; return the file that tells its processes to do the same."""
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(processName)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(log), "formatter": "line"}},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    logging.config.dictConfig(settings)
    path = log.with_suffix(".json")
    path.write_text(json.dumps(settings))
    return path


@contextmanager
def model_files(folder: Path) -> Iterator[Path]:
    """Give a folder with links to a model's files for a while; vLLM would load the optimiser of a checkpoint, too."""
    weights = weight_files(folder)
    with tempfile.TemporaryDirectory(prefix="headrace-model-") as links:
        for file in folder.iterdir():
            if file.suffix != ".safetensors" or file in weights:
                (Path(links) / file.name).symlink_to(file.resolve())
        yield Path(links)


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Send what this process prints to the end of a file for a while; processes started meanwhile keep doing so."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    before = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        for stream in before:
            os.dup2(file, stream)
        yield
    finally:
        os.close(file)
        for stream, copy in before.items():
            os.dup2(copy, stream)
            os.close(copy)


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

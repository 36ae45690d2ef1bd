"""Tiny model folders and engines for the tests of networks and engines."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from actors.engines.base import Completion, Engine, EngineStats, Request
from actors.engines.factory import vllm_engine as start_vllm
from actors.engines.torch_engine import TorchEngine
from buffers.trajectory import Sampling
from configs.language import ModelConfig
from learners.models.load import create_model_folder, load_network
from learners.models.tokenizer import encode, load_tokenizer

SIZES: dict[str, dict[str, Any]] = {
    # Wide initial weights: distributions with clear favourites, so that greedy choices have no near-ties.
    kind: {
        "model_type": kind,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
    }
    for kind in ("llama", "qwen2", "qwen3")
}
SIZES["gpt2"] = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}

VLLM_CONTEXT = 256
STARTED: list[Engine] = []


def model_config(kind: str = "qwen3", *, tied: bool = True, network: str = "auto", **fields: Any) -> ModelConfig:
    return ModelConfig(architecture={**SIZES[kind], "tie_word_embeddings": tied, **fields}, network=network)


@functools.cache
def folder(kind: str = "qwen3", tied: bool = True, seed: int = 1) -> str:
    """Make a model once per test process; the operating system clears its temporary folder."""
    return str(create_model_folder(model_config(kind, tied=tied), tempfile.mkdtemp(prefix="headrace-test-"), seed))


@functools.cache
def tokenizer(kind: str = "qwen3") -> Any:
    return load_tokenizer(folder(kind))


@functools.cache
def hugging_face(kind: str = "qwen3", tied: bool = True, seed: int = 1) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder(kind, tied, seed)).eval()


def weights(kind: str = "qwen3", tied: bool = True, seed: int = 1) -> dict[str, torch.Tensor]:
    return dict(hugging_face(kind, tied, seed).named_parameters())


def native_engine(kind: str = "qwen3", tied: bool = True, *, slots: int = 16, **arguments: Any) -> TorchEngine:
    network = load_network(model_config(kind, tied=tied), folder(kind, tied))
    return TorchEngine(
        network, tokenizer(kind), **{"slots": slots, "context_length": 32, "prefill_chunk": 8, **arguments}
    )


def transformers_engine(kind: str = "qwen3", tied: bool = True, *, slots: int = 16, **arguments: Any) -> TorchEngine:
    network = load_network(model_config(kind, tied=tied, network="transformers"), folder(kind, tied))
    return TorchEngine(
        network, tokenizer(kind), **{"slots": slots, "context_length": 32, "prefill_chunk": 8, **arguments}
    )


def vllm_engine(kind: str = "qwen3", tied: bool = True, **arguments: Any) -> Engine:
    """Return the one engine of this test process for a model, put back to version 0 with the weights of seed 1."""
    engine = started_vllm(kind, tied)
    engine.load_weights(0, weights(kind, tied))
    engine.stats = EngineStats()
    return engine


@functools.cache
def started_vllm(kind: str, tied: bool) -> Engine:
    """Start vLLM: tens of seconds and 2 GB."""
    torch.set_num_threads(1)
    logs = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    engine = start_vllm(
        Path(folder(kind, tied)), model_config(kind, tied=tied), tokenizer(kind),
        slots=16, context_length=VLLM_CONTEXT, seed=0, log_folder=logs,
    )  # fmt: skip
    STARTED.append(engine)
    return engine


def end_vllm() -> None:
    """End what the tests started."""
    while STARTED:
        STARTED.pop().close()


def request(name: str, text: str, key: int = 0, **sampling: Any) -> Request:
    fields = {"max_completion_length": 8, **sampling}
    return Request(id=name, tokens=encode(tokenizer(), text), key=key, sampling=Sampling(**fields))


def generate(engine: Engine, requests: Sequence[Request]) -> dict[str, Completion]:
    """Submit everything, step until idle, and return the completions by id."""

    async def run() -> dict[str, Completion]:
        for item in requests:
            engine.submit(item)
        done: dict[str, Completion] = {}
        while engine.busy:
            done.update({c.id: c for c in await engine.step()})
        return done

    return asyncio.run(run())


def steps(engine: Engine, count: int) -> list[Completion]:
    """Step an engine `count` times."""

    async def run() -> list[Completion]:
        return [completion for _ in range(count) for completion in await engine.step()]

    return asyncio.run(run())

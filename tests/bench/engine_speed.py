"""Tokens per second of the native engine and of Hugging Face `generate`, one thread, in one process.

Measured: Qwen3 with 4 layers of width 128, 64 slots, prompts of 6 to 8 characters in groups of 8,
completions of 4 to 6 tokens, which is what short-answer reinforcement learning asks for; sampling,
bookkeeping and prefill included. `generate` gets the same prompts in batches of 64 and must run each
batch to its longest completion; only the tokens asked for are counted. Not measured: new weights.

    python -m tests.bench.engine_speed
"""

from __future__ import annotations

import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from actors.engines.base import Request
from actors.engines.torch_engine import TorchEngine
from buffers.trajectory import Sampling
from configs.schema import ModelConfig
from learners.models.load import create_model_folder, load_network
from learners.models.tokenizer import encode, load_tokenizer

REPEATS = 5
SLOTS = 64
GROUPS = 128
GROUP_SIZE = 8
MODEL = ModelConfig(
    architecture={
        "model_type": "qwen3",
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "tie_word_embeddings": True,
    }
)


def make_requests(tokenizer: Any) -> list[Request]:
    """Return GROUPS x GROUP_SIZE requests; each group shares a prompt."""
    rng, requests = random.Random(0), []
    for group in range(GROUPS):
        prompt = encode(tokenizer, f"{rng.randrange(10, 1000)}+{rng.randrange(10, 1000)}=")
        for member in range(GROUP_SIZE):
            sampling = Sampling(max_completion_length=rng.choice([4, 5, 6]))
            key = group * GROUP_SIZE + member
            requests.append(Request(id=str(key), tokens=prompt, sampling=sampling, key=key))
    return requests


async def drain(engine: TorchEngine, requests: list[Request]) -> int:
    """Run all requests; return the tokens sampled."""
    before = engine.stats.sampled_tokens
    for request in requests:
        engine.submit(request)
    while engine.busy:
        await engine.step()
    return engine.stats.sampled_tokens - before


def generate(model: Any, requests: list[Request], pad: int) -> int:
    """Run all requests through `generate` in batches of SLOTS; return the tokens asked for."""
    tokens = 0
    for start in range(0, len(requests), SLOTS):
        batch = requests[start : start + SLOTS]
        width = max(len(r.tokens) for r in batch)
        prompts = torch.tensor([[pad] * (width - len(r.tokens)) + list(r.tokens) for r in batch])
        limits = [r.sampling.max_completion_length for r in batch]
        output = model.generate(
            prompts, attention_mask=(prompts != pad).long(), max_new_tokens=max(limits), do_sample=True, top_k=0
        )[:, width:]
        ended = (output == model.config.eos_token_id).int().argmax(1)
        lengths = torch.where((output == model.config.eos_token_id).any(1), ended + 1, output.shape[1])
        tokens += int(torch.minimum(lengths, torch.tensor(limits)).sum())
    return tokens


def rates(run: Callable[[], int]) -> dict[str, float]:
    """Return tokens per second of REPEATS runs after one warm-up: median, lowest, highest, and per CPU-second."""
    run()
    found, per_cpu = [], []
    for _ in range(REPEATS):
        started, cpu = time.perf_counter(), time.process_time()
        tokens = run()
        found.append(tokens / (time.perf_counter() - started))
        # On a machine with other load, only this one says what the code costs.
        per_cpu.append(tokens / (time.process_time() - cpu))
    return {
        "median": round(statistics.median(found)),
        "min": round(min(found)),
        "max": round(max(found)),
        "median_per_cpu_s": round(statistics.median(per_cpu)),
    }


def main() -> None:
    """Measure both and print one JSON line."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        create_model_folder(MODEL, folder, 0)
        tokenizer, network = load_tokenizer(folder), load_network(MODEL, folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
    engine = TorchEngine(network, tokenizer, slots=SLOTS, context_length=32, prefill_chunk=16)
    requests = make_requests(tokenizer)
    result = {
        "engine_tokens_per_s": rates(lambda: asyncio.run(drain(engine, requests))),
        "hugging_face_tokens_per_s": rates(lambda: generate(model, requests, tokenizer.pad_token_id)),
        "requests": len(requests),
        "slots": SLOTS,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": f"{platform.processor() or platform.machine()}, {platform.python_version()}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Tokens per second, start time and memory of four ways to generate: the built-in engine, vLLM, Hugging Face
`generate`, and a decode loop written by hand; at 1, 64 and 512 sequences side by side.

    python -m tests.bench.engine_speed [--systems torch vllm generate loop] [--batches 1 64 512]

Prints one JSON line. Each system runs in a process of its own, on one thread (vLLM: its default), with the quickstart's
model, prompts of 6 to 8 characters in groups of 8, and completions of 24 tokens at most that end by themselves where
the model says so. The engines replace a finished sequence at once and draw with exact log-probabilities, the other
two run each batch until its longest completion ends; the tokens up to each end are counted. Prefill is included.
Memory is the resident set of the process and its children.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from actors.engines.base import Engine, Request
from actors.engines.factory import torch_engine, vllm_engine
from buffers.trajectory import Sampling
from configs.load import load_config
from learners.models.load import create_model_folder
from learners.models.tokenizer import encode, load_tokenizer

PRESET = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
REPEATS = 3
GROUP_SIZE = 8
COMPLETION = 24
CONTEXT = 48
ROUNDS = {1: 24, 64: 8, 512: 3}
"""Batch -> how many batches of requests are generated."""


def make_requests(tokenizer: Any, count: int) -> list[Request]:
    """Return requests of which each GROUP_SIZE share a prompt."""
    rng, requests = random.Random(0), []
    for at in range(count):
        if at % GROUP_SIZE == 0:
            prompt = tuple(encode(tokenizer, f"{rng.randrange(10, 1000)}+{rng.randrange(10, 1000)}="))
        sampling = Sampling(max_completion_length=COMPLETION)
        requests.append(Request(id=str(at), tokens=prompt, sampling=sampling, key=at))
    return requests


def run_engine(engine: Engine, requests: Sequence[Request]) -> int:
    """Generate everything; return the tokens."""

    async def run() -> int:
        tokens = 0
        for request in requests:
            engine.submit(request)
        while engine.busy:
            tokens += sum(len(done.tokens) for done in await engine.step())
        return tokens

    return asyncio.run(run())


class Batches:
    """Prompts padded to one length, batch by batch, and the tokens before each end."""

    def __init__(self, folder: Path, tokenizer: Any, batch: int) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._pad, self.eos, self._batch = tokenizer.pad_token_id, tokenizer.eos_token_id, batch

    def run(self, requests: Sequence[Request], complete: Callable[[torch.Tensor], torch.Tensor]) -> int:
        tokens = 0
        for start in range(0, len(requests), self._batch):
            prompts = [request.tokens for request in requests[start : start + self._batch]]
            width = max(map(len, prompts))
            sampled = complete(torch.tensor([[self._pad] * (width - len(p)) + list(p) for p in prompts]))
            ended = (sampled == self.eos).int()
            tokens += int((ended.cumsum(1) - ended == 0).sum())
        return tokens

    def generate(self, prompts: torch.Tensor) -> torch.Tensor:
        """Complete with Hugging Face's `generate`."""
        mask = (prompts != self._pad).long()
        options = {"max_new_tokens": COMPLETION, "do_sample": True, "top_k": 0}
        return self.model.generate(prompts, attention_mask=mask, **options)[:, prompts.shape[1] :]

    @torch.inference_mode()
    def loop(self, prompts: torch.Tensor) -> torch.Tensor:
        """Complete with a loop around the model and its dynamic cache."""
        tokens, mask, cache = prompts, (prompts != self._pad).long(), None
        sampled: list[torch.Tensor] = []
        done = torch.zeros(len(prompts), dtype=torch.bool)
        while len(sampled) < COMPLETION and not done.all():
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            output = self.model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache)
            cache = output.past_key_values
            drawn = output.logits[:, -1].softmax(-1).multinomial(1)[:, 0]
            sampled.append(torch.where(done, self.eos, drawn))
            done |= drawn == self.eos
            tokens, mask = drawn[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return torch.stack(sampled, 1)


def start(system: str, folder: Path, batch: int) -> Callable[[Sequence[Request]], int]:
    """Return what generates requests and counts tokens."""
    config, tokenizer = load_config([PRESET], []), load_tokenizer(folder)
    shape = {"slots": batch, "context_length": CONTEXT}
    if system == "torch":
        engine = torch_engine(folder, config.model, tokenizer, prefill_chunk=16, **shape)
        return lambda requests: run_engine(engine, requests)
    if system == "vllm":
        server = vllm_engine(folder, config.model, tokenizer, seed=0, log_folder=folder, **shape)
        return lambda requests: run_engine(server, requests)
    batches = Batches(folder, tokenizer, batch)
    complete = batches.generate if system == "generate" else batches.loop
    return lambda requests: batches.run(requests, complete)


def resident_bytes() -> int:
    """Return the memory of this process and of all below it."""
    parents: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(status.parent.name)
        parents.setdefault(int(fields["PPid"]), []).append(pid)
        sizes[pid] = int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    family = [int(Path("/proc/self").readlink().name)]
    for pid in family:
        family += parents.get(pid, [])
    return sum(sizes.get(pid, 0) for pid in family)


def measure(system: str, batch: int) -> dict[str, float]:
    """Start a system here and time it."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        create_model_folder(load_config([PRESET], []).model, folder, 0)
        run = start(system, Path(folder), batch)
        requests = make_requests(load_tokenizer(folder), batch * ROUNDS[batch])
        run(requests[:batch])
        ready = time.perf_counter() - began
        rates = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            tokens = run(requests)
            rates.append(tokens / (time.perf_counter() - started))
        return {
            "tokens_per_s": round(statistics.median(rates)),
            "start_s": round(ready, 1),
            "rss_mb": round(resident_bytes() / 1e6),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=["torch", "vllm", "generate", "loop"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(ROUNDS), choices=list(ROUNDS))
    parser.add_argument("--here", action="store_true", help="measure in this process")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.systems[0], options.batches[0])), flush=True)
        # vLLM's processes end with this one.
        return
    found: dict[str, Any] = {}
    for system in options.systems:
        for batch in options.batches:
            command = [sys.executable, "-m", "tests.bench.engine_speed", "--here", "--systems", system]
            done = subprocess.run([*command, "--batches", str(batch)], capture_output=True, text=True, timeout=600)
            if done.returncode:
                sys.exit(f"{system} at {batch}: {done.stderr[-2000:]}")
            found.setdefault(system, {})[str(batch)] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""The gap that new weights cause between two tokens, all slots busy, against an ordinary decode step.

    python -m tests.bench.swap_gap [--swaps 40]

The quickstart's model and slots, one thread, prompts in groups of 8; weights come through shared memory as in a run,
every tenth step. The pause is the swap alone (look, copy, load); the gap is the swap and the step after it, which
prefills queued prompts again. Both in units of the median step without a swap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from actors.engines.base import Request
from actors.engines.factory import torch_engine
from buffers.trajectory import Sampling
from configs.load import load_config
from learners.models.load import create_model_folder
from learners.models.tokenizer import encode, load_tokenizer
from learners.models.weights import Layout
from learners.publish.shared_memory import SharedMemoryPublisher

PRESET = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
EVERY = 10


async def measure(swaps: int) -> dict[str, float]:
    config = load_config([PRESET], [])
    slots = config.rollout.slots
    with tempfile.TemporaryDirectory() as place:
        folder = create_model_folder(config.model, Path(place), 0)
        tokenizer = load_tokenizer(folder)
        engine = torch_engine(folder, config.model, tokenizer, slots, 64, 16)
    weights = {name: w.detach().clone() for name, w in engine._network.named_weights().items()}  # type: ignore[attr-defined]
    publisher = SharedMemoryPublisher(f"headrace-gap-{os.getpid()}", Layout.of(weights), epoch=1)
    receiver = publisher.receiver(1)()
    sampling = Sampling(max_completion_length=50)
    # Three requests per slot and swap: none ever idles.
    for at in range(3 * slots * max(swaps, 10)):
        prompt = tuple(encode(tokenizer, f"{at // 8}+34="))
        engine.submit(Request(id=str(at), tokens=prompt, sampling=sampling, key=at))
    plain, swapped, pauses = [], [], []
    for step in range(EVERY * (swaps + 1)):
        swap = step % EVERY == EVERY - 1
        if swap:
            publisher.publish(step, [weights])
        began = time.perf_counter()
        if receiver.poll() is not None:
            engine.load_weights(*receiver.take())
            pauses.append(time.perf_counter() - began)
        await engine.step()
        (swapped if swap else plain).append(time.perf_counter() - began)
        assert engine.busy
    publisher.close()
    # The first ten steps prefill all slots.
    usual = statistics.median(plain[EVERY:])
    return {
        "step_ms": round(1e3 * usual, 2),
        "swap_ms": round(1e3 * statistics.median(pauses[1:]), 2),
        "median_pause_in_steps": round(statistics.median(pauses[1:]) / usual, 2),
        "largest_pause_in_steps": round(max(pauses[1:]) / usual, 2),
        "median_gap_in_steps": round(statistics.median(swapped[1:]) / usual, 2),
        "largest_gap_in_steps": round(max(swapped[1:]) / usual, 2),
        "largest_plain_step_in_steps": round(max(plain[EVERY:]) / usual, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=40)
    swaps = parser.parse_args().swaps
    torch.set_num_threads(1)
    print(json.dumps(asyncio.run(measure(swaps))))


if __name__ == "__main__":
    main()

"""The torch engine's float32 results depend on the request and the weights, bit for bit, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from engine_models import generate, native_engine, request, steps, transformers_engine, weights

from actors.engines.base import Completion, Request
from actors.engines.torch_engine import TorchEngine

PROMPTS = ["12+34=", "7*8=", "(1-2)*3=", "99-1=", "5", "1+2+3+4+5=", "100*100="]


def bits(completion: Completion) -> tuple[bytes, bytes]:
    return completion.tokens.tobytes(), completion.logprobs.tobytes()


def many(count: int) -> list[Request]:
    kinds = [{}, {"temperature": 0.0}, {"top_p": 0.8}, {"top_k": 4, "temperature": 1.5}, {"stop": ("1", "+2")}]
    return [
        request(f"{i}", PROMPTS[i % 7], key=i, max_completion_length=1 + i % 9, **kinds[i % 5]) for i in range(count)
    ]


def trickle(engine: TorchEngine, requests: list[Request], rng: random.Random) -> dict[str, Completion]:
    """Submit a few requests at a time, between steps."""
    waiting, done = list(requests), {}
    while waiting or engine.busy:
        for _ in range(min(rng.randrange(5), len(waiting))):
            engine.submit(waiting.pop())
        done.update({c.id: c for c in steps(engine, 1)})
    return done


@pytest.mark.parametrize("slots", [16, 64])
def test_a_request_alone_has_the_bits_that_it_has_in_company(slots: int) -> None:
    torch.set_num_threads(1)
    requests = many(80)
    crowd = generate(native_engine(slots=slots), requests)
    for item in requests[::9]:
        assert bits(generate(native_engine(slots=slots), [item])[item.id]) == bits(crowd[item.id])


@pytest.mark.parametrize("slots", [16, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_arrival_order_slot_and_timing_change_no_bit(slots: int, seed: int) -> None:
    torch.set_num_threads(1)
    requests, rng = many(80), random.Random(seed)
    shuffled = rng.sample(requests, len(requests))
    first = generate(native_engine(slots=slots), requests)
    second = trickle(native_engine(slots=slots), shuffled, rng)
    assert {i: bits(c) for i, c in first.items()} == {i: bits(c) for i, c in second.items()}


def test_reusing_a_prefilled_prompt_changes_no_bit() -> None:
    torch.set_num_threads(1)
    group = [request(f"{i}", "12+34=", key=i) for i in range(12)]
    engine = native_engine()
    shared = generate(engine, group)
    assert engine.stats.prefill_tokens == 6
    for item in group:
        assert bits(generate(native_engine(), [item])[item.id]) == bits(shared[item.id])


def test_long_prompts_beside_short_ones_change_no_bit() -> None:
    torch.set_num_threads(1)
    short, long = request("s", "5+"), request("l", "1+2+3+4+5+6+7+8+9+1=", key=1)
    together = generate(native_engine(), [short, long])
    assert bits(generate(native_engine(), [short])["s"]) == bits(together["s"])
    assert bits(generate(native_engine(), [long])["l"]) == bits(together["l"])


def test_more_distinct_prompts_than_the_prefix_cache_holds_are_all_completed_alike() -> None:
    torch.set_num_threads(1)
    # The first fifty prompts come again after later ones have taken their places.
    requests = [request(f"{i}", f"{i % 100}+1=", key=i, max_completion_length=3) for i in range(150)]
    crowd = generate(native_engine(slots=64), requests)
    assert len(crowd) == 150
    for item in requests[::29]:
        assert bits(generate(native_engine(slots=64), [item])[item.id]) == bits(crowd[item.id])


def test_the_transformers_network_keeps_bits_too() -> None:
    torch.set_num_threads(1)
    requests = many(30)
    first, second = generate(transformers_engine(), requests), generate(transformers_engine(), requests[::-1])
    assert {i: bits(c) for i, c in first.items()} == {i: bits(c) for i, c in second.items()}


def test_a_swap_in_flight_keeps_old_cache_entries() -> None:
    torch.set_num_threads(1)
    engine = native_engine()
    engine.submit(request("a", "12+34=", temperature=0.0))
    steps(engine, 2)
    before = engine._cache.entries[:, :, 0, :, :7].clone()
    engine.load_weights(1, weights(seed=2))
    steps(engine, 1)
    assert torch.equal(engine._cache.entries[:, :, 0, :, :7], before)
    assert np.isfinite(engine.abort(["a"])[0].logprobs).all()


def test_a_score_has_the_same_bits_in_any_batch() -> None:
    torch.set_num_threads(1)
    engine, sequences = native_engine(), [request("", p).tokens for p in PROMPTS * 5]
    crowd = engine.score(sequences)
    for sequence, result in zip(sequences[:7], crowd, strict=False):
        assert engine.score([sequence])[0].logprobs.tobytes() == result.logprobs.tobytes()


def test_the_engine_seed_changes_what_is_drawn() -> None:
    item = request("a", "12+", key=1, temperature=2.0)
    one, other = (generate(native_engine(seed=s), [item])["a"].tokens.tolist() for s in (0, 1))
    assert one != other

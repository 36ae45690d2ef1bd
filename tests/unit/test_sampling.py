"""Random numbers and draws of the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.engines.sampling import SamplingRows, mix, sample, uniforms


def rows(
    count: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, *, filtering: bool = True
) -> SamplingRows:
    return SamplingRows(
        temperature=torch.full((count,), temperature, dtype=torch.float64),
        top_k=torch.full((count,), top_k),
        top_p=torch.full((count,), top_p, dtype=torch.float64),
        any_greedy=temperature == 0,
        any_filter=filtering,
    )


def drawn(logits: Tensor, uniform: float, **sampling: float) -> tuple[int, float]:
    draw = sample(logits[None], rows(1, **sampling), torch.tensor([uniform], dtype=torch.float64))
    return int(draw.tokens[0]), float(draw.logprobs[0])


def test_mix_gives_the_published_output_of_splitmix64() -> None:
    # First three outputs of the reference C program (Vigna, splitmix64.c) for state 1234567.
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniforms_depend_on_seed_key_and_counter_alone() -> None:
    keys, counters = np.array([1, 2, 3], np.uint64), np.array([0, 5, 9])
    together = uniforms(7, keys, counters)
    alone = [uniforms(7, keys[i : i + 1], counters[i : i + 1])[0] for i in range(3)]
    assert together.tolist() == alone
    assert len({*together, *uniforms(8, keys, counters), *uniforms(7, keys + np.uint64(9), counters)}) == 9


def test_neighbouring_keys_do_not_share_shifted_streams() -> None:
    counters = np.arange(1000)
    streams = [set(uniforms(0, np.full(1000, k, np.uint64), counters).tolist()) for k in range(4)]
    assert len(set.union(*streams)) == 4000


def test_uniforms_are_uniform() -> None:
    u = uniforms(0, np.arange(100_000, dtype=np.uint64), np.zeros(100_000, np.int64))
    counts = np.histogram(u, bins=50, range=(0.0, 1.0))[0]
    # Chi-square with 49 degrees of freedom: mean 49, standard deviation 10.
    assert ((counts - 2000) ** 2 / 2000).sum() < 100
    assert u.min() >= 0 and u.max() < 1


def test_the_inverse_distribution_is_hit_at_its_edges() -> None:
    logits = torch.tensor([0.25, 0.5, 0.25]).log()
    ends = {u: drawn(logits, u)[0] for u in (0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2.0**-52)}
    assert list(ends.values()) == [0, 0, 1, 1, 2, 2]


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])
    assert {drawn(logits, u)[0] for u in (0.0, 0.4999999, 0.5, 1 - 2.0**-52)} == {1, 3}


@pytest.mark.parametrize(
    ("sampling", "probabilities"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0]),
        # top-p acts on the distribution that top-k left: 0.625, 0.375 and so on.
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 2, "top_p": 0.9}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
    ],
)
def test_recorded_logprobs_are_of_the_distribution_drawn_from(
    sampling: dict[str, float], probabilities: list[float]
) -> None:
    # A shuffled vocabulary: sorting inside must be undone.
    order = [2, 0, 3, 1]
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1])[order].log()
    grid = np.linspace(0, 1, 400, endpoint=False)
    draws = [drawn(logits, float(u), **sampling) for u in grid]
    found = {order[token]: np.exp(logprob) for token, logprob in draws}
    expected = {i: p for i, p in enumerate(probabilities) if p > 0}
    assert found == pytest.approx(expected, rel=1e-6)
    shares = {i: sum(order[t] == i for t, _ in draws) / 400 for i in expected}
    assert shares == pytest.approx(expected, abs=0.01)


def test_greedy_takes_the_best_and_records_its_unfiltered_logprob_at_temperature_one() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    token, logprob = drawn(logits, 0.99, temperature=0.0, top_k=1)
    assert token == 1 and logprob == pytest.approx(np.log(0.5), rel=1e-6)


def test_a_plain_row_has_the_same_bits_with_and_without_filtered_neighbours() -> None:
    logits = torch.randn(8, 40, generator=torch.Generator().manual_seed(0)) * 3
    uniform = torch.linspace(0, 0.99, 8, dtype=torch.float64)
    plain = sample(logits, rows(8, filtering=False), uniform)
    mixed = rows(8)
    mixed.top_k[4:], mixed.top_p[6:], mixed.any_greedy = 3, 0.5, True
    beside = sample(logits, mixed, uniform)
    assert torch.equal(plain.tokens[:4], beside.tokens[:4]) and torch.equal(plain.logprobs[:4], beside.logprobs[:4])


def test_non_finite_logits_give_a_nan_logprob_instead_of_a_token_out_of_range() -> None:
    token, logprob = drawn(torch.tensor([0.0, float("nan"), 1.0]), 0.5)
    assert 0 <= token < 3 and np.isnan(logprob)

"""Token log-probabilities and entropies against their definitions, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learners.models.logprobs import token_logprobs

POSITIONS, HIDDEN, VOCABULARY = 7, 5, 11


def reference(hidden: Tensor, targets: Tensor, weight: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """log p(t) = z_t - log sum exp z and H = -sum p log p of z = W h / temperature, one position at a time."""
    logprobs, entropies = [], []
    for h, t, scale in zip(hidden, targets, temperature, strict=True):
        z = (weight @ h) / scale
        p = z.exp() / z.exp().sum()
        logprobs.append(p[t].log())
        entropies.append(-(p * p.log()).sum())
    return torch.stack(logprobs), torch.stack(entropies)


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden, targets, weight, temperature; temperatures straddle 1."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(POSITIONS, HIDDEN, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (POSITIONS,), generator=g)
    return hidden, targets, weight, torch.linspace(0.5, 2.0, POSITIONS, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_values_equal_the_definition_for_every_chunk_size(chunk: int) -> None:
    hidden, targets, weight, temperature = inputs()
    got = token_logprobs(hidden, targets, lambda h: h @ weight.T, temperature, chunk)
    for ours, expected in zip(got, reference(hidden, targets, weight, temperature), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, 7])
def test_gradients_of_hidden_states_and_weights_equal_those_of_the_definition(chunk: int) -> None:
    hidden, targets, weight, temperature = inputs()
    mix = torch.linspace(-1.0, 2.0, POSITIONS, dtype=torch.float64)
    expected, got = [], []
    for out, compute in (
        (expected, lambda: reference(hidden, targets, weight, temperature)),
        (got, lambda: token_logprobs(hidden, targets, lambda h: h @ weight.T, temperature, chunk)),
    ):
        logprobs, entropy = compute()
        out += torch.autograd.grad((mix * logprobs + mix.flip(0) * entropy).sum(), [hidden, weight])
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_gradcheck() -> None:
    hidden, targets, weight, temperature = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, targets, lambda x: x @ w.T, temperature, 3), (hidden, weight)
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 9))
def test_probabilities_add_up_and_entropy_is_their_mean_surprise(seed: int, chunk: int) -> None:
    hidden, _, weight, temperature = inputs(seed)
    rows = hidden[:1].expand(VOCABULARY, -1)
    logprobs, entropy = token_logprobs(rows, torch.arange(VOCABULARY), lambda h: h @ weight.T, temperature[0], chunk)
    assert logprobs.exp().sum().item() == pytest.approx(1.0, rel=1e-12)
    assert entropy[0].item() == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), rel=1e-10)


def test_only_one_chunk_of_logits_exists_at_a_time() -> None:
    hidden, targets, weight, temperature = inputs()
    sizes: list[int] = []

    def project(h: Tensor) -> Tensor:
        sizes.append(len(h))
        return h @ weight.T

    token_logprobs(hidden, targets, project, temperature, 3)[0].sum().backward()
    # Forward, then each chunk again on the way back.
    assert sorted(sizes) == [1, 1, 3, 3, 3, 3]


def test_leading_dimensions_are_kept_and_temperature_zero_counts_as_one() -> None:
    hidden, targets, weight, _ = inputs()
    shaped = token_logprobs(hidden[:6].view(2, 3, -1), targets[:6].view(2, 3), lambda h: h @ weight.T, 0.0)
    flat = token_logprobs(hidden[:6], targets[:6], lambda h: h @ weight.T, 1.0)
    assert shaped[0].shape == (2, 3)
    torch.testing.assert_close(shaped[0].flatten(), flat[0], rtol=0, atol=0)


def test_a_banned_token_leaves_entropy_and_gradients_finite() -> None:
    logits = torch.tensor([[0.0, 1.0, float("-inf")]], dtype=torch.float64, requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor([1]), lambda h: h * 1.0)
    (logprobs.sum() + entropy.sum()).backward()
    assert torch.isfinite(entropy).all() and torch.isfinite(logits.grad).all()


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.randn(4, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = token_logprobs(logits, torch.arange(4), lambda h: h)[0]
    expected = logits.double().log_softmax(-1)[torch.arange(4), torch.arange(4)]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_mismatched_shapes_and_chunks_below_one_are_refused() -> None:
    hidden, targets, weight, _ = inputs()
    with pytest.raises(ValueError, match="all but the last must agree"):
        token_logprobs(hidden, targets[:3], lambda h: h @ weight.T)
    with pytest.raises(ValueError, match="chunk is 0"):
        token_logprobs(hidden, targets, lambda h: h @ weight.T, 1.0, 0)

"""Losses against scalar loops that follow the printed equations, in float64, and against tables by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.registry import resolve
from learners.losses import LOSSES
from learners.losses.base import Denominators, LossInputs, aggregate, check_same_shape
from learners.losses.clipped_surrogate import ClippedSurrogate, clipped_surrogate
from learners.losses.decoupled_surrogate import DecoupledSurrogate
from learners.losses.importance import TruncatedImportance, effective_sample_size, mismatch_metrics
from learners.losses.kl import k3, reference_kl
from learners.losses.sequence_surrogate import SequenceSurrogate

MASK = torch.tensor([[True] * 4, [True, True, True, False], [True, True, False, False]])
COUNTS = Denominators(9.0, 3.0)


def inputs(seed: int = 0) -> LossInputs:
    """Return log-probabilities whose ratios lie on both sides of every clip (spread of 0.5 nats)."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(3, 4, generator=generator, dtype=torch.float64)

    behaviour = -draw().abs() - 0.5
    proximal, current = behaviour + 0.5 * draw(), behaviour + 0.5 * draw()
    advantages, reference = draw() * MASK, behaviour + 0.3 * draw()
    current, behaviour = (torch.where(MASK, x, 0.0) for x in (current, behaviour))
    return LossInputs(
        current=current.requires_grad_(),
        behaviour=behaviour,
        proximal=proximal,
        reference=reference,
        target=reference,
        advantages=advantages,
    )


def per_sequence(x: LossInputs, token) -> list[list[float]]:
    """Evaluate a scalar formula (pi, mu, proximal, advantage) at each loss token."""
    columns = (x.current.exp(), x.behaviour.exp(), x.proximal.exp(), x.advantages)
    grid = torch.stack([c.detach() for c in columns], -1).tolist()
    return [[token(*grid[b][t]) for t in range(4) if MASK[b, t]] for b in range(3)]


def token_mean(values: list[list[float]]) -> float:
    return sum(sum(row) for row in values) / 9


def sequence_mean(values: list[list[float]]) -> float:
    return sum(sum(row) / len(row) for row in values) / 3


def ppo(u: float, a: float, low: float, high: float) -> float:
    return min(u * a, max(1 - low, min(1 + high, u)) * a)


@pytest.mark.parametrize(("aggregation", "mean"), [("token", token_mean), ("sequence", sequence_mean)])
def test_clipped_surrogate_is_the_printed_objective(aggregation, mean):
    x = inputs()
    loss, _ = ClippedSurrogate(epsilon=0.2, epsilon_high=0.3, aggregation=aggregation)(x, MASK, COUNTS)
    want = -mean(per_sequence(x, lambda pi, mu, prox, a: ppo(pi / mu, a, 0.2, 0.3)))
    assert loss.item() == pytest.approx(want, rel=1e-12)


def test_decoupled_surrogate_is_the_printed_objective_times_a_capped_weight():
    x = inputs()
    loss, _ = DecoupledSurrogate(epsilon=0.2, epsilon_high=0.3, cap=1.2)(x, MASK, COUNTS)
    want = per_sequence(x, lambda pi, mu, prox, a: min(prox / mu, 1.2) * ppo(pi / prox, a, 0.2, 0.3))
    assert any(r > 1.2 for row in per_sequence(x, lambda pi, mu, prox, a: prox / mu) for r in row)
    assert loss.item() == pytest.approx(-token_mean(want), rel=1e-12)


def test_decoupled_surrogate_on_fresh_samples_is_the_clipped_one():
    x = inputs()
    fresh = LossInputs(current=x.current, behaviour=x.behaviour, proximal=x.behaviour, advantages=x.advantages)
    plain, _ = ClippedSurrogate()(x, MASK, COUNTS)
    assert torch.equal(DecoupledSurrogate()(fresh, MASK, COUNTS)[0], plain)


def test_sequence_surrogate_clips_the_geometric_mean_ratio():
    x = inputs()
    loss, _ = SequenceSurrogate(epsilon=0.05, epsilon_high=0.1)(x, MASK, COUNTS)
    logs = per_sequence(x, lambda pi, mu, prox, a: math.log(pi / mu))
    advantages = per_sequence(x, lambda pi, mu, prox, a: a)
    ratios = [math.exp(sum(row) / len(row)) for row in logs]
    want = [[ppo(u, a, 0.05, 0.1) for a in row] for u, row in zip(ratios, advantages, strict=True)]
    assert loss.item() == pytest.approx(-sequence_mean(want), rel=1e-12)


def test_truncated_importance_has_the_weighted_score_as_gradient():
    x = inputs()
    TruncatedImportance(cap=1.1)(x, MASK, COUNTS)[0].backward()
    weights = (x.current - x.behaviour).detach().exp()
    assert (weights[MASK] > 1.1).any() and (weights[MASK] < 1.1).any()
    want = torch.where(MASK, -weights.clamp(max=1.1) * x.advantages / 9, 0.0)
    torch.testing.assert_close(x.current.grad, want, rtol=1e-12, atol=0)


# ratio, advantage -> loss, does a gradient flow; clips at 0.8 and 1.3
TABLE = [
    (1.0, 2.0, -2.0, True),
    (1.5, 2.0, -2.6, False),  # above the upper clip, good action: stop
    (1.5, -2.0, 3.0, True),  # above, bad action: pull back
    (0.5, 2.0, -1.0, True),  # below the lower clip, good action: pull back
    (0.5, -2.0, 1.6, False),  # below, bad action: stop
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "flows"), TABLE)
def test_clip_by_hand(ratio, advantage, loss, flows):
    logs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value, cut = clipped_surrogate(logs, torch.full_like(logs, advantage), epsilon=0.2, epsilon_high=0.3)
    value.sum().backward()
    assert value.item() == pytest.approx(loss, rel=1e-12)
    assert (logs.grad.item() != 0) == flows == (not cut.item())


def test_clip_fraction_counts_tokens_whose_gradient_stopped():
    current = torch.tensor([[math.log(r) for r, *_ in TABLE]])
    advantages = torch.tensor([[a for _, a, *_ in TABLE]])
    x = LossInputs(current=current, behaviour=torch.zeros(1, 5), advantages=advantages)
    _, metrics = ClippedSurrogate(epsilon=0.2, epsilon_high=0.3)(x, torch.ones(1, 5) > 0, Denominators(5.0, 1.0))
    assert metrics["policy/clip_frac"].item() == pytest.approx(0.4)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_hostile_padding_reaches_neither_loss_nor_gradient(name):
    loss = resolve(LOSSES, name, "test")()
    clean, hostile = inputs(), inputs()
    with torch.no_grad():
        hostile.behaviour.masked_fill_(~MASK, -1e5)  # a ratio of exp(1e5) = inf
    loss(clean, MASK, COUNTS)[0].backward()
    value, metrics = loss(hostile, MASK, COUNTS)
    value.backward()
    assert torch.equal(clean.current.grad, hostile.current.grad)
    assert hostile.current.grad[~MASK].eq(0).all() and all(m.isfinite() for m in metrics.values())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 2), st.sampled_from(sorted(LOSSES)))
def test_micro_batches_add_up(seed, cut, name):
    loss, x = resolve(LOSSES, name, "test")(), inputs(seed)

    def part(rows: slice) -> LossInputs:
        return LossInputs(
            current=x.current[rows],
            behaviour=x.behaviour[rows],
            proximal=x.proximal[rows],
            target=x.target[rows],
            advantages=x.advantages[rows],
        )

    whole, metrics = loss(x, MASK, COUNTS)
    halves = [loss(part(rows), MASK[rows], COUNTS) for rows in (slice(0, cut), slice(cut, 3))]
    assert sum(h[0].item() for h in halves) == pytest.approx(whole.item(), rel=1e-12, abs=1e-15)
    for key, value in metrics.items():
        assert sum(h[1][key].item() for h in halves) == pytest.approx(value.item())


def test_k3_is_the_exact_kl_in_expectation_and_never_negative():
    p, q = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], dtype=torch.float64)
    exact = (q * (q / p).log()).sum()
    torch.testing.assert_close((q * k3((p / q).log())).sum(), exact, rtol=1e-12, atol=0)
    assert k3(torch.linspace(-5, 5, 11)).ge(0).all()


def test_reference_kl_is_the_mean_of_k3_over_loss_tokens():
    x = inputs()
    got = reference_kl(x.current, x.reference, MASK, COUNTS)
    logs = (x.reference - x.current).detach()[MASK].tolist()
    assert got.item() == pytest.approx(sum(math.exp(d) - d - 1 for d in logs) / 9, rel=1e-12)


def test_mismatch_metrics_are_moments_of_the_behaviour_weights():
    x = inputs()
    metrics = mismatch_metrics(x.proximal, x.behaviour, MASK, COUNTS)
    weights = [w for row in per_sequence(x, lambda pi, mu, prox, a: prox / mu) for w in row]
    assert metrics["rollout/is_ratio/mean"].item() == pytest.approx(sum(weights) / 9)
    assert metrics["rollout/is_ratio/mean_square"].item() == pytest.approx(sum(w * w for w in weights) / 9)
    assert metrics["rollout/mismatch_kl/mean"].item() == pytest.approx(sum(w - 1 - math.log(w) for w in weights) / 9)


def test_effective_sample_size_is_the_share_of_weight_that_counts():
    assert effective_sample_size(1.0, 1.0) == 1.0
    # Of four weights one holds everything: (0.25)^2 / 0.25.
    assert effective_sample_size(0.25, 0.25) == 0.25


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClippedSurrogate(epsilon=1.5), "epsilon is 1.5"),
        (lambda: ClippedSurrogate(epsilon_high=-0.1), "epsilon_high is -0.1"),
        (lambda: DecoupledSurrogate(cap=0.0), "cap is 0.0"),
        (lambda: TruncatedImportance(cap=-1.0), "cap is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_unknown_aggregations_and_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="token or sequence"):
        aggregate(torch.zeros(1, 1), torch.ones(1, 1) > 0, COUNTS, "mean")
    with pytest.raises(ValueError, match=r"a \(1, 2\), b \(2, 1\)"):
        check_same_shape(a=torch.zeros(1, 2), b=torch.zeros(2, 1))


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_aggregation_leaves_padding_out(aggregation):
    assert aggregate(torch.ones(3, 4), MASK, COUNTS, aggregation) == 1

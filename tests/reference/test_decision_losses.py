"""Losses of decision policies against scalar loops that follow the printed equations, and tables by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learners.decision_objective import value_loss
from learners.losses.base import Denominators, LossInputs
from learners.losses.decoupled_surrogate import DecoupledSurrogate
from learners.losses.importance import TruncatedImportance
from learners.losses.target_surrogate import TargetSurrogate

MASK = torch.tensor([[True] * 4, [True, True, False, True], [True, False, False, False]])
COUNTS = Denominators(8.0, 3.0)


def inputs(seed: int = 0) -> LossInputs:
    """Return log-probabilities whose ratios lie on both sides of every clip, garbage where nothing counts."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(3, 4, generator=generator, dtype=torch.float64)

    behaviour = -draw().abs() - 0.5
    current, target = behaviour + 0.5 * draw(), behaviour + 0.8 * draw()
    behaviour = torch.where(MASK, behaviour, torch.nan)
    return LossInputs(current=current.requires_grad_(), behaviour=behaviour, target=target, advantages=draw())


def mean_over_steps(x: LossInputs, scalar) -> float:
    """Return the mean of a formula (pi, mu, pi_target, advantage, log pi) over the steps that count."""
    assert x.target is not None
    current = x.current.detach()
    columns = (current.exp(), x.behaviour.exp(), x.target.exp(), x.advantages, current)
    return sum(scalar(*(float(c[b, t]) for c in columns)) for b, t in MASK.nonzero().tolist()) / 8


@pytest.mark.parametrize(("rho", "epsilon"), [(2.0, 0.4), (1.2, 0.1)])
def test_impact_is_the_printed_surrogate(rho, epsilon):
    """arXiv:1912.00167: r = min(mu / pi_target, rho) pi / mu, then PPO's clip."""
    x = inputs()

    def printed(pi, mu, target, advantage, _):
        r = min(mu / target, rho) * pi / mu
        return -min(r * advantage, min(max(r, 1 - epsilon), 1 + epsilon) * advantage)

    loss, metrics = TargetSurrogate(rho=rho, epsilon=epsilon)(x, MASK, COUNTS)
    assert float(loss.detach()) == pytest.approx(mean_over_steps(x, printed), rel=1e-12)
    assert 0 < metrics["policy/clip_frac"] < 1
    loss.backward()
    assert x.current.grad is not None and x.current.grad.isfinite().all()
    assert (x.current.grad[~MASK] == 0).all()


def test_impact_below_its_cap_is_ppo_around_the_target():
    x = inputs()
    capless = TargetSurrogate(rho=math.inf, epsilon=0.3)(x, MASK, COUNTS)[0]
    around = replace(x, behaviour=x.target, proximal=x.target)
    want = DecoupledSurrogate(epsilon=0.3)(around, MASK, COUNTS)[0]
    torch.testing.assert_close(capless, want, rtol=1e-12, atol=0)


def test_truncated_importance_with_cap_one_is_the_policy_gradient_of_impala():
    """arXiv:1802.01561 sec. 4.2: rho_s grad log pi (r_s + gamma v_{s+1} - V), rho = min(1, pi / mu) held fixed."""
    x = inputs()
    loss, _ = TruncatedImportance(cap=1.0)(x, MASK, COUNTS)
    printed = mean_over_steps(x, lambda pi, mu, _, advantage, log_pi: -min(1.0, pi / mu) * advantage * log_pi)
    assert float(loss.detach()) == pytest.approx(printed, rel=1e-12)
    loss.backward()
    b, t = MASK.nonzero()[3].tolist()
    rho = min(1.0, float((x.current[b, t] - x.behaviour[b, t]).detach().exp()))
    assert x.current.grad is not None
    assert float(x.current.grad[b, t]) == pytest.approx(-rho * float(x.advantages[b, t]) / 8, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "old", "returns", "clip", "loss"),
    [
        (3.0, 1.0, 5.0, None, 2.0),  # 0.5 (3 - 5)^2
        (3.0, 1.0, 5.0, 0.5, 6.125),  # moved towards it beyond the clip: the error of 1.5 counts, 0.5 * 3.5^2
        (1.3, 1.0, 5.0, 0.5, 6.845),  # within the clip: as without
        (-2.0, 1.0, 5.0, 0.5, 24.5),  # moved away: its own, larger error counts
    ],
)
def test_value_loss_by_hand(value, old, returns, clip, loss):
    tensors = (torch.tensor([[x]], dtype=torch.float64) for x in (value, old, returns))
    assert float(value_loss(*tensors, clip=clip)) == pytest.approx(loss)


def test_a_clipped_value_that_moved_far_enough_gets_no_gradient():
    values = torch.tensor([[3.0, 1.3]], requires_grad=True)
    value_loss(values, torch.ones(1, 2), torch.full((1, 2), 5.0), clip=0.5).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[0.0, pytest.approx(-3.7)]]


def test_a_cap_that_is_none_is_refused():
    with pytest.raises(ValueError, match="rho is 0; it must be > 0"):
        TargetSurrogate(rho=0)

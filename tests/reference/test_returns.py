"""Returns against double sums that follow the printed equations, in float64, and against tables by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.errors import ConfigError
from learners.returns.base import Steps, boundaries
from learners.returns.gae import GAE, gae
from learners.returns.vtrace import VTrace, vtrace

GAMMA = 0.9


def steps(seed: int = 0, *, B: int = 4, T: int = 9, spread: float = 0.7, ends: float = 0.3) -> Steps:
    """Return steps whose ratios lie on both sides of every clip, with episodes that end in both ways."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def coin(share: float) -> Tensor:
        return torch.rand(B, T, generator=generator) < share

    terminated, truncated = coin(ends / 2), coin(ends / 2)
    values, finals = draw(B, T + 1), draw(int(truncated.sum()))
    mask = torch.ones(B, T, dtype=torch.bool)
    # A backend that resets itself does so in the step after an end.
    mask[:, 1:] = ~((terminated | truncated)[:, :-1] & coin(0.5)[:, 1:])
    following, continues = boundaries(values, finals, terminated=terminated, truncated=truncated, mask=mask)
    return Steps(
        log_ratios=torch.where(mask, spread * draw(B, T), 0.0),
        rewards=torch.where(mask, draw(B, T), 0.0),
        values=values[:, :-1],
        following=following,
        continues=continues,
        mask=mask,
    )


def printed_vtrace(x: Steps, b: int, s: int, *, rho_bar: float, c_bar: float, lam: float) -> float:
    """Eq. 1 of arXiv:1802.01561 as printed: v_s = V(x_s) + sum_t gamma^(t-s) (prod_{i<t} c_i) delta_t V."""
    total = float(x.values[b, s])
    for t in range(s, x.rewards.shape[1]):
        product = 1.0
        for i in range(s, t):
            product *= lam * min(c_bar, float(x.log_ratios[b, i].exp()))
        rho = min(rho_bar, float(x.log_ratios[b, t].exp()))
        delta = rho * (x.rewards[b, t] + GAMMA * x.following[b, t] - x.values[b, t])
        total += float(GAMMA ** (t - s) * product * delta) if x.mask[b, t] else 0.0
        if not x.continues[b, t]:
            break  # an episode's sum ends with it
    return total


@pytest.mark.parametrize(("rho_bar", "c_bar", "lam"), [(1.0, 1.0, 1.0), (1.5, 0.8, 0.9), (3.0, 3.0, 0.5)])
def test_vtrace_is_the_printed_sum(rho_bar, c_bar, lam):
    x = steps()
    found = vtrace(x, gamma=GAMMA, rho_bar=rho_bar, c_bar=c_bar, lam=lam)
    want = [[printed_vtrace(x, b, s, rho_bar=rho_bar, c_bar=c_bar, lam=lam) for s in range(9)] for b in range(4)]
    torch.testing.assert_close(found.targets, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    for b in range(4):
        for s in range(9):
            inside = x.continues[b, s] and s < 8
            later = want[b][s + 1] if inside else float(x.following[b, s])
            advantage = float(x.rewards[b, s]) + GAMMA * later - float(x.values[b, s])
            assert found.advantages[b, s] == pytest.approx(advantage if x.mask[b, s] else 0.0, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gae_is_the_printed_sum(lam):
    """Eq. 16 of arXiv:1506.02438: A_t = sum_l (gamma lam)^l delta_{t+l}."""
    x = steps(1)
    found = gae(x, gamma=GAMMA, lam=lam)
    for b in range(4):
        for s in range(9):
            total, weight = 0.0, 1.0
            for t in range(s, 9):
                delta = float(x.rewards[b, t] + GAMMA * x.following[b, t] - x.values[b, t])
                total += weight * delta if x.mask[b, t] else 0.0
                weight *= GAMMA * lam
                if not x.continues[b, t]:
                    break
            assert found.advantages[b, s] == pytest.approx(total, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(found.targets, x.values + found.advantages)


def one(
    rewards: list[float], values: list[float], *, finals: tuple[float, ...] = (), **where: tuple[int, ...]
) -> Steps:
    """Return one on-policy fragment; `where` lists the steps that are terminated, truncated, undecided."""
    T = len(rewards)
    flags = {name: torch.zeros(1, T, dtype=torch.bool) for name in ("terminated", "truncated", "undecided")}
    for name, at in where.items():
        flags[name][0, list(at)] = True
    mask = ~flags.pop("undecided")
    v = torch.tensor([values], dtype=torch.float64)
    following, continues = boundaries(v, torch.tensor(finals, dtype=torch.float64), mask=mask, **flags)
    r = torch.tensor([rewards], dtype=torch.float64)
    return Steps(log_ratios=r * 0, rewards=r, values=v[:, :-1], following=following, continues=continues, mask=mask)


@pytest.mark.parametrize("estimator", [VTrace(), GAE(lam=1.0)])
@pytest.mark.parametrize(
    ("fragment", "targets"),
    [
        # 1 + .5 (2 + .5 (4 + .5 * 8)), and so on: bootstrapped with the value after the last step
        (one([1, 2, 4], [10, 20, 30, 8]), [4.0, 6.0, 8.0]),
        # a terminated step is worth its reward; what came after does not leak into it
        (one([1, 2, 4], [10, 20, 30, 8], terminated=(1,)), [2.0, 2.0, 8.0]),
        # a truncated step is worth its reward and half of V(final) = 6, not of the new episode's 30
        (one([1, 2, 4], [10, 20, 30, 8], truncated=(1,), finals=(6.0,)), [3.5, 5.0, 8.0]),
        # both at once: nothing follows
        (one([1, 2, 4], [10, 20, 30, 8], terminated=(1,), truncated=(1,), finals=(6.0,)), [2.0, 2.0, 8.0]),
        # step 1 ended, step 2 was the backend's own reset: its target is its value, and it passes nothing on
        (one([1, 2, 4, 1], [10, 20, 30, 8, 2], terminated=(1,), undecided=(2,)), [2.0, 2.0, 30.0, 2.0]),
        # an end at the last step
        (one([1, 2, 4], [10, 20, 30, 8], truncated=(2,), finals=(2.0,)), [3.25, 4.5, 5.0]),
    ],
)
def test_boundaries_by_hand(estimator, fragment, targets):
    found = estimator(fragment, 0.5)
    assert found.targets[0].tolist() == pytest.approx(targets)
    expected = torch.where(fragment.mask, found.targets - fragment.values, 0.0)
    torch.testing.assert_close(found.advantages, expected)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_on_policy_vtrace_is_gae_with_lambda_one(seed):
    x = steps(seed, spread=0.0)
    a, b = vtrace(x, gamma=GAMMA, rho_bar=1, c_bar=1, lam=1), gae(x, gamma=GAMMA, lam=1)
    torch.testing.assert_close(a.targets, b.targets)
    torch.testing.assert_close(a.advantages, b.advantages)


@given(st.integers(0, 10_000), st.integers(0, 7), st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_nothing_leaks_across_an_end(seed, end, surprise):
    x = steps(seed)
    x = replace(x, continues=x.continues.index_fill(1, torch.tensor([end]), False))
    changed = replace(x, rewards=x.rewards.clone(), values=x.values.clone(), log_ratios=x.log_ratios.clone())
    for tensor in (changed.rewards, changed.values, changed.log_ratios):
        tensor[:, end + 1 :] += surprise
    for estimator in (VTrace(rho_bar=2.0, c_bar=1.5), GAE()):
        before, after = estimator(x, GAMMA), estimator(changed, GAMMA)
        torch.testing.assert_close(before.targets[:, : end + 1], after.targets[:, : end + 1])
        torch.testing.assert_close(before.advantages[:, : end + 1], after.advantages[:, : end + 1])


def test_shapes_that_do_not_fit_are_refused():
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"values \(2, 3\), 0 finals do not fit a mask of \(2, 3\)"):
        boundaries(torch.zeros(2, 3), torch.zeros(0), terminated=~mask, truncated=~mask, mask=mask)
    with pytest.raises(ValueError, match="1 finals"):
        boundaries(torch.zeros(2, 4), torch.zeros(1), terminated=~mask, truncated=~mask, mask=mask)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: VTrace(c_bar=0.0), "c_bar is 0.0"),
        (lambda: VTrace(rho_bar=0.5), "rho_bar is 0.5; it must be >= c_bar"),
        (lambda: VTrace(lam=1.1), "lam is 1.1"),
        (lambda: GAE(lam=-0.1), "lam is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(make, key):
    with pytest.raises(ConfigError, match=key):
        make()

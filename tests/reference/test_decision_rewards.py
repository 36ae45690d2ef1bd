"""What steps are worth, by hand and against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from configs.decision import IntrinsicConfig
from learners.decision_rewards import ReturnScale, discounted_sums, total_reward

ONI = IntrinsicConfig(extrinsic_coefficient=0.1, intrinsic_coefficient=0.4, count_exponent=3.0)


def row(*numbers: float) -> np.ndarray:
    return np.array([numbers], np.float32)


@pytest.mark.parametrize(
    ("intrinsic", "count", "total"),
    [(1.0, 2, 0.25), (1.0, 1, 0.6), (np.nan, 1, 0.2), (0.0, 1, 0.2), (-1.0, 1, -0.2)],
)
def test_total_reward_by_hand(intrinsic, count, total):
    """The oracle of arXiv:2410.23022: r_env = 2, label 1, N = 2, k = 3, c = (0.1, 0.4): 0.2 + 0.4 / 8."""
    found = total_reward(row(2.0), row(intrinsic), np.array([[count]], np.int32), ONI)
    assert found.dtype == np.float32 and found[0, 0] == pytest.approx(total)


def test_the_clip_is_for_extrinsic_rewards():
    found = total_reward(row(20.0, -20.0, 2.0), row(9.0, np.nan, np.nan), np.ones((1, 3), np.int32), ONI, clip=5.0)
    assert found[0].tolist() == pytest.approx([0.5 + 3.6, -0.5, 0.2])


def test_discounted_sums_by_hand():
    ended = np.array([[False, True, False, False]])
    assert discounted_sums(row(1, 2, 4, 8), ended, 0.5)[0].tolist() == [2.0, 2.0, 8.0, 8.0]


def test_the_scale_is_the_deviation_of_all_returns_seen():
    scale, rng = ReturnScale(), np.random.default_rng(0)
    assert scale.deviation == 1.0
    parts = [rng.normal(100, 7, size=n) for n in (3, 50, 1, 400)]
    for part in parts:
        scale.observe(torch.from_numpy(part))
    assert scale.deviation == pytest.approx(float(np.concatenate(parts).std()), rel=1e-9)
    again = ReturnScale()
    again.load(scale.state())
    again.observe(torch.from_numpy(parts[0]))
    scale.observe(torch.from_numpy(parts[0]))
    assert again.deviation == scale.deviation


def test_the_first_batch_is_measured_by_its_own_sums_and_later_ones_are_not():
    scale, mask = ReturnScale(), np.array([[True, True, True, False]])
    ended = np.array([[False, True, False, False]])
    scale.begin(row(1, 2, 4, 1000), ended, mask, 0.5)
    assert scale.deviation == pytest.approx(float(np.std([2.0, 2.0, 4.0])))
    before = scale.deviation
    scale.begin(row(9, 9, 9, 9), ended, mask, 0.5)
    assert scale.deviation == before

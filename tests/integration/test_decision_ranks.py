"""Two processes that learn decisions make the weights of one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "unit"))
from decision_tables import VECTOR, configuration, random_table

from buffers.transport import free_address
from learners.collective import Alone, Collective, RankGroup
from learners.decision_learner import DecisionLearner

pytestmark = pytest.mark.integration
SETTINGS = {
    "one pass": ("policy.target=mlp",),
    "several passes": (
        "learner.actor_critic.returns.target=gae", "learner.num_iterations=2", "learner.minibatches=2",
        "learner.loss.target=impact", "learner.actor_critic.target_every=2",
        "learner.actor_critic.normalise_observations=true", "learner.actor_critic.normalise_returns=true",
        "policy={target: mlp, core: {target: gru, size: 8}}",
    ),
}  # fmt: skip
SIZES = (7, 4, 1)
"""Fragments of each update: the last one leaves a rank without any."""


def train(name: str, collective: Collective, seed: int) -> dict:
    """Return weights and metrics after three updates."""
    config = configuration("learner.learning_rate=0.001", *SETTINGS[name])
    learner = DecisionLearner(config, VECTOR, collective=collective, seed=seed)
    learner._seed = 0  # the weights come from rank 0; the plan is the same on all ranks
    state = learner.network.state_size
    metrics = [
        learner.update(random_table(VECTOR, size, seed=update, state=state)) for update, size in enumerate(SIZES)
    ]
    return {"weights": {n: w.clone() for n, w in learner.weights().items()}, "metrics": metrics}


def second_rank(_: int, address: str, out: str) -> None:
    """Train as rank 1, from other weights than rank 0's."""
    torch.set_num_threads(1)
    group = RankGroup(address, 1, 2, 60.0)
    torch.save({name: train(name, group, seed=5) for name in SETTINGS}, out)
    group.close()


def test_two_ranks_equal_one(tmp_path):
    address = free_address()
    process = torch.multiprocessing.spawn(second_rank, (address, str(tmp_path / "1.pt")), nprocs=1, join=False)
    group = RankGroup(address, 0, 2, 60.0)
    first = {name: train(name, group, seed=0) for name in SETTINGS}
    group.close()
    process.join()
    second = torch.load(tmp_path / "1.pt", weights_only=False)
    for name in SETTINGS:
        alone = train(name, Alone(), seed=0)
        for weight, want in alone["weights"].items():
            assert torch.equal(first[name]["weights"][weight], second[name]["weights"][weight])
            torch.testing.assert_close(first[name]["weights"][weight], want, rtol=1e-4, atol=1e-5)
        assert first[name]["metrics"] == second[name]["metrics"]
        for got, want in zip(first[name]["metrics"], alone["metrics"], strict=True):
            assert got == pytest.approx(want, rel=1e-3, abs=1e-4)

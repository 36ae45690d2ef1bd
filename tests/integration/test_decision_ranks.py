"""Two processes that learn decisions make the weights of one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "unit"))
from decision_tables import VECTOR, configuration, random_table

from buffers.transport import free_address
from learners.checkpoint import load_checkpoint, save_checkpoint
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


Stored = Mapping[str, Path]
"""Name of a setting -> the checkpoint to go on from."""
NOTHING: Stored = {}


def train(
    name: str, collective: Collective, seed: int, updates: Sequence[int] = (0, 1, 2), stored: Stored = NOTHING
) -> dict:
    """Return weights, metrics and state after some updates."""
    config = configuration("learner.learning_rate=0.001", *SETTINGS[name])
    learner = DecisionLearner(config, VECTOR, collective=collective, seed=seed)
    learner._seed = 0  # the weights come from rank 0; the plan is the same on all ranks
    if name in stored:
        learner.load(load_checkpoint(stored[name]))
    state = learner.network.state_size
    metrics = [learner.update(random_table(VECTOR, SIZES[update], seed=update, state=state)) for update in updates]
    return {
        "weights": {n: w.clone() for n, w in learner.weights().items()},
        "metrics": metrics,
        "state": learner.state(),
    }


def second_rank(_: int, address: str, out: str, updates: Sequence[int], stored: Stored) -> None:
    """Train as rank 1, from other weights than rank 0's."""
    torch.set_num_threads(1)
    group = RankGroup(address, 1, 2, 60.0)
    found = {name: train(name, group, 5, updates, stored) for name in SETTINGS}
    torch.save({name: {key: made[key] for key in ("weights", "metrics")} for name, made in found.items()}, out)
    group.close()


def together(folder: Path, updates: Sequence[int] = (0, 1, 2), stored: Stored = NOTHING) -> tuple[dict, dict]:
    """Return what two ranks made of some updates, rank 0 in this process."""
    address = free_address()
    words = (address, str(folder / "1.pt"), updates, stored)
    process = torch.multiprocessing.spawn(second_rank, words, nprocs=1, join=False)
    group = RankGroup(address, 0, 2, 60.0)
    first = {name: train(name, group, 0, updates, stored) for name in SETTINGS}
    group.close()
    process.join()
    return first, torch.load(folder / "1.pt", weights_only=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict, dict]:
    return together(tmp_path_factory.mktemp("whole"))


def test_two_ranks_go_on_from_a_checkpoint_bit_for_bit(tmp_path, whole):
    first, _ = together(tmp_path, updates=(0, 1))
    (tmp_path / "model").mkdir()
    stored = {
        name: save_checkpoint(tmp_path / str(n), made["state"], tmp_path / "model").path
        for n, (name, made) in enumerate(first.items())
    }
    for again, want in zip(together(tmp_path, (2,), stored), whole, strict=True):
        for name in SETTINGS:
            assert again[name]["metrics"] == want[name]["metrics"][2:]
            for weight, value in want[name]["weights"].items():
                assert torch.equal(again[name]["weights"][weight], value), (name, weight)


def test_two_ranks_equal_one(whole):
    first, second = whole
    for name in SETTINGS:
        alone = train(name, Alone(), seed=0)
        for weight, want in alone["weights"].items():
            assert torch.equal(first[name]["weights"][weight], second[name]["weights"][weight])
            torch.testing.assert_close(first[name]["weights"][weight], want, rtol=1e-4, atol=1e-5)
        assert first[name]["metrics"] == second[name]["metrics"]
        for got, want in zip(first[name]["metrics"], alone["metrics"], strict=True):
            assert got == pytest.approx(want, rel=1e-3, abs=1e-4)

"""Every learner backend makes the steps of a single rank, and goes on from the checkpoint of any other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent / "unit"))
from learner_tables import model_folder
from ranks_of_backends import BACKENDS, LONG, equality, together

from learners.checkpoint import load_checkpoint
from learners.collective import Alone

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What a single rank makes, by kind of run."""
    return equality("ddp")(Alone(), folder, folder)["ddp"]


@pytest.fixture(scope="module")
def ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks make, by backend and kind of run."""
    return together(2, "equality", tuple(BACKENDS), folder, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("kind", LONG)
def test_two_ranks_of_every_backend_equal_one(kind: str, alone: dict[str, Any], ranks: list[dict[str, Any]]):
    wanted = alone[kind]
    for rank, found in enumerate(ranks):
        for name, got in found.items():
            for mine, one in zip(got[kind]["metrics"], wanted["metrics"], strict=True):
                assert mine == pytest.approx(one, rel=1e-3, abs=1e-5), (name, rank)
                assert mine["policy/loss"] == pytest.approx(one["policy/loss"], rel=0, abs=1e-6), (name, rank)
            # Every version: what is gathered for publication is what the last step made, not the one before.
            torch.testing.assert_close(got[kind]["published"], wanted["published"], rtol=0, atol=1e-5)
            if rank == 0:
                torch.testing.assert_close(got[kind]["model"], wanted["model"], rtol=0, atol=1e-5)
                torch.testing.assert_close(got[kind]["optimiser"], wanted["optimiser"], rtol=1e-4, atol=1e-6)
    assert all(("lora_" in weight) == (kind == "adapter") for weight in wanted["model"])


def test_activations_computed_twice_change_nothing_under_any_backend(ranks: list[dict[str, Any]]):
    for rank, found in enumerate(ranks):
        for name, got in found.items():
            # The same operations in the same order: bit for bit.
            assert got["recomputed"]["metrics"] == got["plain"]["metrics"], (name, rank)
            torch.testing.assert_close(got["recomputed"]["published"], got["plain"]["published"], rtol=0, atol=0)
            assert got["recomputed"]["passes"] == 2 * got["plain"]["passes"] > 0, (name, rank)


@pytest.mark.parametrize(("kind", "exact"), [("bf16", "plain"), ("bf16 adapter", "adapter")])
def test_bfloat16_is_near_to_float32_and_keeps_everything_in_it_under_any_backend(
    kind: str, exact: str, ranks: list[dict[str, Any]]
):
    for found in ranks:
        for got in found.values():
            assert_close_to(got[kind], got[exact])


def test_any_backend_goes_on_from_the_checkpoint_of_any_other(folder: Path, tmp_path: Path, alone: dict[str, Any]):
    chained = [
        together(size, "chain", names, folder, tmp_path)[0]
        for size, names in ((2, ("zero 3",)), (3, ("fsdp2", "zero 3")), (1, ("ddp",)))
    ]
    for kind in LONG:
        metrics = [one for found in chained for one in found[kind]]
        for mine, one in zip(metrics, alone[kind]["metrics"], strict=True):
            assert mine["policy/loss"] == pytest.approx(one["policy/loss"], rel=0, abs=1e-6), kind
        state = load_checkpoint(max((tmp_path / kind).glob("v*")))
        torch.testing.assert_close(dict(state.model), alone[kind]["model"], rtol=0, atol=1e-5)
        torch.testing.assert_close(dict(state.optimiser), alone[kind]["optimiser"], rtol=1e-4, atol=1e-6)


def assert_close_to(rounded: dict[str, Any], plain: dict[str, Any]) -> None:
    """Multiplying in bfloat16 is near to float32 and not the same; what is kept is float32 all the same."""
    mine, wanted = rounded["metrics"][0], plain["metrics"][0]
    for metric in ("policy/loss", "policy/entropy", "optim/grad_norm", "rollout/is_ratio/mean"):
        assert mine[metric] == pytest.approx(wanted[metric], rel=0.05, abs=1e-2), metric
    assert mine["optim/grad_norm"] != wanted["optim/grad_norm"]
    weights = rounded["published"][-1].values()
    kept: list[Tensor] = [*weights, *rounded["optimiser"].values()]
    assert all(tensor.dtype == torch.float32 for tensor in kept)
    # Weights that were cast to bfloat16 and back would have no more than its 8 bits.
    finer = [float((w != w.bfloat16().float()).float().mean()) for w in weights if w.ndim > 1]
    assert min(finer) > 0.9

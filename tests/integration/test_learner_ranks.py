"""Two learner processes make the weights of one, and notice when one of them is gone."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "unit"))
from learner_tables import MODEL, model_folder, random_table

from buffers.transport import free_address
from configs.errors import MemberLost
from configs.language import WarmStartConfig
from configs.learning import LearnerConfig
from learners.rank import LearnerRank

pytestmark = pytest.mark.integration
# So few tokens per micro-batch that ranks accumulate over several, and over different numbers of them.
CONFIG = LearnerConfig(beta=0.1, minibatches=2, micro_batch_tokens=16, learning_rate=1e-3, update_deadline_s=60)
EXAMPLES = [(str(a), str(9 - a)) for a in range(10)]


async def train(host: LearnerRank) -> dict:
    """Return weights and metrics after a warm start and three updates; the last one has a single group."""
    await host.warm_start(EXAMPLES, WarmStartConfig(updates=2, batch_size=10, learning_rate=1e-2, threads=1))
    metrics = [await host.update(random_table(seed, groups)) for seed, groups in ((0, 5), (1, 4), (2, 1))]
    return {"weights": await host.weights(), "metrics": metrics}


def second_rank(_: int, folder: str, address: str, out: str) -> None:
    """Train as rank 1, from other weights than rank 0's; then die without a word."""
    torch.set_num_threads(1)

    async def main() -> None:
        host = LearnerRank(replace(CONFIG, ranks=2), MODEL, folder, rank=1, address=address)
        torch.save(await train(host), out)

    asyncio.run(main())
    os._exit(0)


async def test_two_ranks_equal_one_and_a_dead_rank_is_reported(tmp_path):
    torch.set_num_threads(1)
    folder, other = model_folder(tmp_path / "model"), model_folder(tmp_path / "other", seed=1)
    alone = await train(LearnerRank(CONFIG, MODEL, folder))
    address = free_address()
    process = torch.multiprocessing.spawn(
        second_rank, (str(other), address, str(tmp_path / "1.pt")), nprocs=1, join=False
    )
    host = LearnerRank(replace(CONFIG, ranks=2), MODEL, folder, rank=0, address=address)
    first = await train(host)
    process.join()
    second = torch.load(tmp_path / "1.pt", weights_only=False)
    for name, want in alone["weights"].items():
        np.testing.assert_array_equal(first["weights"][name], second["weights"][name])
        np.testing.assert_allclose(first["weights"][name], want, rtol=0, atol=1e-5)
    for got, want in zip(first["metrics"], alone["metrics"], strict=True):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-5)
    with pytest.raises(MemberLost, match="rank 0 of 2: no gradient sum within 60 s; a rank is gone"):
        await host.update(random_table())
    await host.close()

"""Weights on their way to eight workers by the object store, of which one is frozen: nobody waits for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
from learner_tables import random_table

import launch
from actors.inbox import WeightsInbox
from buffers.digest import weights_digest
from buffers.transport import LocalHandle
from configs.load import load_config
from learners.delivery import Delivery
from learners.host import build
from learners.models.weights import Receiver

torch.set_num_threads(1)
SMOKE = Path(launch.__file__).parent / "configs" / "smoke.yaml"
ENGINES = 8


class Worker:
    """Of a rollout worker what takes weights: its inbox, with an engine that notes what was loaded into it."""

    def __init__(self, make: Callable[[], Receiver]) -> None:
        self._inbox = WeightsInbox(self, make())
        self.answers = asyncio.Event()
        self.answers.set()
        self.calls = 0
        self.loaded: dict[int, str] = {}
        """version -> digest, in the order of loading"""

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self.loaded[version] = weights_digest(tensors)

    async def receive(self, packet: object) -> None:
        self.calls += 1
        await self.answers.wait()
        self._inbox.offer(packet)
        self._inbox.swap()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_seven_engines_are_pushed_every_version_while_the_eighth_is_frozen(tmp_path: Path) -> None:
    words = ["publish.backend=object_store", f"rollout.workers={ENGINES}", "model.adapter.rank=2"]
    config = load_config([SMOKE], words)
    learner = await build(config, tmp_path, 1, "", list, lambda: None, 0)
    workers = [Worker(make) for make in learner.receivers()]
    handles = [LocalHandle(f"rollout-{seat}", worker) for seat, worker in enumerate(workers)]

    async def live() -> list[LocalHandle]:
        return handles

    delivery, frozen, others = Delivery(config, [LocalHandle("learner", learner)], live), workers[3], workers[:3]
    others += workers[4:]
    await delivery.publish(0)
    await until(lambda: all(0 in worker.loaded for worker in workers))
    frozen.answers.clear()
    for version in range(1, 5):
        await learner.update(random_table(version), version)
        await delivery.publish(version)
        await until(lambda v=version: all(v in worker.loaded for worker in others))
        await delivery.serve_late()
    assert list(frozen.loaded) == [0]
    assert frozen.calls == 2, "what it has not answered is not said again"
    frozen.answers.set()
    await until(lambda: 4 in frozen.loaded)
    assert list(frozen.loaded) == [0, 1, 4], "the version that was under way to it, and then the newest"
    assert all(list(worker.loaded) == [0, 1, 2, 3, 4] for worker in others)
    (said,) = {tuple(worker.loaded.values()) for worker in others}
    assert len(set(said)) == 5, "four updates changed nothing: the test proved nothing"
    assert tuple(frozen.loaded.values()) == (said[0], said[1], said[4])
    await learner.close()

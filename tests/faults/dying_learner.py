"""A reward learner in a process that is killed at a chosen state."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from buffers.transport import LocalHandle
from configs.decision import AnnotationConfig, IntrinsicConfig
from configs.schema import RunConfig
from rewards.intrinsic.labels import Item, Label
from rewards.intrinsic.learner import build
from rewards.intrinsic.met import Met
from rewards.online.tensors import State
from tests.faults.kill_at import Cut

__all__ = ["SETTINGS", "Annotator", "die_at", "digest", "installed"]

INSTALLED = "installed.txt"
LIFE_S = 60.0
SETTINGS = RunConfig(
    intrinsic="classification",
    intrinsics={"classification": {"steps": 8, "batch_size": 4, "hidden": 8, "channels": 4, "embedding": 4}},
    exploration=IntrinsicConfig(annotation=AnnotationConfig(batch_size=2, held_out_fraction=0.0)),
)


class Annotator:
    """Captions with "key" are helpful."""

    def __init__(self) -> None:
        self.asked: list[Item] = []

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        self.asked += items
        return [Label(item=item, value=float("key" in item[0])) for item in items]


class Scorer:
    """Writes down at once which versions it was given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def install(self, version: int, state: State) -> int:
        with (self._folder / INSTALLED).open("a") as file:
            file.write(f"{version} {digest(state)}\n")
        return version


def digest(state: State) -> str:
    return hashlib.sha256(b"".join(name.encode() + state[name].tobytes() for name in sorted(state))).hexdigest()


def installed(folder: Path) -> dict[int, str]:
    """Return version -> digest of everything that a scorer was given."""
    path = folder / INSTALLED
    lines = path.read_text().splitlines() if path.exists() else []
    return {int(version): text for version, text in (line.split() for line in lines)}


def die_at(cut: Cut, folder: Path) -> int:
    """Let a learner live until the cut; return the exit code of its process."""
    process = multiprocessing.get_context("spawn").Process(target=_live, args=(cut, folder))
    process.start()
    process.join(LIFE_S + 30.0)
    code = process.exitcode
    process.kill()
    process.join()
    assert code is not None, "the process neither reached the cut nor ended"
    return code


def _live(cut: Cut, folder: Path) -> None:
    cut.arm()
    asyncio.run(_meet_captions(folder))


async def _meet_captions(folder: Path) -> None:
    learner: Any = build(SETTINGS, folder)
    learner._interval_s = 0.0
    learner.attach("annotator", LocalHandle("annotator-0", Annotator()))
    learner.attach("reward.intrinsic", LocalHandle("reward.intrinsic-0", Scorer(folder)))
    async with asyncio.timeout(LIFE_S):
        for number in range(1000):
            version = learner.stats()["version"]
            learner.submit(Met(captions={f"key {number}": 1, f"wall {number}": 1}))
            while learner.stats()["version"] == version:
                learner.ping()
                await asyncio.sleep(0.005)

"""A reward learner that is killed at the worst moments: its successor goes on, and no number means two models."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from buffers.segments import read_stream
from buffers.tables import LABELS
from buffers.transport import LocalHandle
from configs.errors import Corruption
from rewards.intrinsic.learner import build
from rewards.intrinsic.met import Met
from rewards.online.archive import Archive
from tests.faults.dying_learner import SETTINGS, Annotator, die_at, digest, installed
from tests.faults.kill_at import Cut, half_a_write, whole

pytestmark = [pytest.mark.integration, pytest.mark.fault]

WRITE = "buffers.files:OsFiles.write"
CUTS = {
    "in the middle of training": Cut(target="rewards.intrinsic.classification:Classification.loss", call=20),
    "before labels are on disk": Cut(target=WRITE, about="/labels-", call=3),
    "in the middle of writing labels": Cut(target=WRITE, about="/labels-", call=3, half=half_a_write),
    "before a version is on disk": Cut(target=WRITE, about=".state", call=3),
    "in the middle of writing a version": Cut(target=WRITE, about=".state", call=3, half=half_a_write),
    "before a version gets its name": Cut(target="buffers.files:OsFiles.rename", about=".state", call=3),
    "between disk and publication": Cut(target="rewards.online.archive:Archive.save", call=3, half=whole),
}


@pytest.mark.parametrize("state", CUTS)
async def test_a_killed_learner_is_resumed_by_its_successor(tmp_path: Path, state: str):
    assert die_at(CUTS[state], tmp_path) == -signal.SIGKILL
    given = installed(tmp_path)
    rows = read_stream(tmp_path / "intrinsic", "labels", LABELS).to_pylist()
    items = [tuple(row["item"]) for row in rows]
    assert len(set(items)) == len(items) >= 4

    learner = build(SETTINGS, tmp_path)
    try:
        figures = learner.stats()
        assert figures["labels"] == len(items)
        assert figures["version"] >= max(given, default=0) >= 1
        if figures["version"] in given:
            assert digest(learner._model.state()) == given[figures["version"]], "one number, one model"
        annotator = Annotator()
        learner.attach("annotator", LocalHandle("annotator-0", annotator))
        learner.submit(Met(captions={"a new key": 1, **{item[0]: 1 for item in items}}))
        async with asyncio.timeout(30.0):
            while learner.stats()["labels"] == len(items) or learner.stats()["version"] == figures["version"]:
                learner.ping()
                await asyncio.sleep(0.01)
        assert annotator.asked == [("a new key",)], "what has its label is not asked again"
    finally:
        await learner.close()


async def test_of_a_damaged_version_the_one_before_is_taken_and_its_number_is_not_used_again(tmp_path: Path):
    assert die_at(CUTS["between disk and publication"], tmp_path) == -signal.SIGKILL
    newest = sorted((tmp_path / "intrinsic").glob("*.state"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    version, state = Archive(tmp_path / "intrinsic").newest() or (0, {})
    assert version == 4, "3 may have scored, with the weights that are lost"
    assert digest({k: v for k, v in state.items() if k.startswith("network")}) == installed(tmp_path)[2]


async def test_a_learner_whose_versions_are_all_damaged_says_so(tmp_path: Path):
    assert die_at(CUTS["between disk and publication"], tmp_path) == -signal.SIGKILL
    for path in (tmp_path / "intrinsic").glob("*.state"):
        path.write_bytes(b"nothing")
    with pytest.raises(Corruption, match="xxh3"):
        build(SETTINGS, tmp_path)

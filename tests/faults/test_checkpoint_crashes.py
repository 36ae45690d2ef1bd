"""A checkpoint is whole or it is not there, whatever C call the process dies before and whatever was not synced."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from learners.checkpoint import load_checkpoint, newest, save_checkpoint
from learners.progress import LearnerState, Progress

DISK_CALLS = {
    "open", "write", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "sendfile", "serialize_file", "close",
}  # fmt: skip


class PowerCut(BaseException):
    """Nothing handles it, as nothing runs after a power cut."""


class Tripwire:
    """Raises PowerCut before the n-th C call that touches a disk, and before every one after it."""

    def __init__(self, crash_at: int) -> None:
        self.crash_at, self.calls, self.synced = crash_at, 0, set[Path]()
        self.order: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_call" or argument.__name__ not in DISK_CALLS:
            return
        self.calls += 1
        if self.calls >= self.crash_at:
            raise PowerCut
        self.order.append(argument.__name__)
        if argument.__name__ == "fsync":
            path = Path(frame.f_locals["path"])  # of `learners.checkpoint.sync`
            self.synced.add(path)
            self.order[-1] = f"fsync {path.name}"


def state(version: int) -> LearnerState:
    weights = {"w": torch.full((40,), float(version))}
    return LearnerState(
        progress=Progress(version=version, trained_digest=str(version)), model=weights, optimiser=weights,
        reference={}, rng=torch.zeros(8, dtype=torch.uint8),
    )  # fmt: skip


def save(root: Path, version: int) -> None:
    model = root.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    save_checkpoint(root, state(version), model)


def crash(root: Path, version: int, crash_at: int) -> Tripwire:
    wire = Tripwire(crash_at)
    sys.setprofile(wire)
    try:
        save(root, version)
    except PowerCut:
        pass
    finally:
        sys.setprofile(None)
    return wire


def tear_unsynced(root: Path, inodes: set[int], wire: Tripwire, tear: Callable[[bytes], bytes]) -> None:
    """Tear what this save wrote and did not sync; `inodes` are of files that were there, whole, before."""
    synced = {path.name for path in wire.synced}
    for file in root.glob("*/*"):
        if file.stat().st_ino not in inodes and file.name not in synced:
            file.write_bytes(tear(file.read_bytes()))


@pytest.mark.parametrize("replaced", [False, True], ids=["new", "again"])
@pytest.mark.parametrize("tear", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(len(data))])
def test_a_crash_at_any_call_leaves_whole_checkpoints_only(
    tmp_path: Path, tear: Callable[[bytes], bytes], replaced: bool
) -> None:
    """Fails if a checkpoint gets its name before its files are synced, or the older one goes first."""
    for crash_at in itertools.count(1):
        root = tmp_path / str(crash_at) / "checkpoints"
        root.mkdir(parents=True)
        for version in (1, 2) if replaced else (1,):
            save(root, version)
        inodes = {file.stat().st_ino for file in root.glob("*/*")}
        wire = crash(root, 2, crash_at)
        if wire.calls < crash_at:
            break
        tear_unsynced(root, inodes, wire, tear)
        found = newest(root)
        assert found is not None and found.version in (1, 2), f"crash before call {crash_at}"
        assert load_checkpoint(found.path).progress.version == found.version
        save(root, 2)
        assert newest(root) is not None and load_checkpoint(root / "v00000002").progress.version == 2
        shutil.rmtree(root.parent)
    assert crash_at > 20


def test_a_checkpoint_has_its_name_on_disk_before_the_one_it_replaces_goes(tmp_path: Path) -> None:
    """A rename is on disk once the folder that holds the name is synced; only then may `save` return or remove."""
    root = tmp_path / "checkpoints"
    root.mkdir()
    save(root, 2)
    order = crash(root, 2, crash_at=10**9).order
    named = [at for at, call in enumerate(order) if call == "rename"][-2]  # with the last one the old one goes
    assert "fsync checkpoints" in order[named:], "the new name is never synced"
    after = order[named + 1 : order.index("fsync checkpoints", named)]
    assert not {"unlink", "rmdir", "rename"} & set(after), (
        "the replaced checkpoint went before the new name was on disk"
    )

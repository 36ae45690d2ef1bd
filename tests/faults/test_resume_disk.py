"""Disks that are full, and files that are short, garbled or gone: survived, or refused by name with the remedy."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kill_at import Cut
from tests.faults.killed_runs import KILLED, Run

pytestmark = [pytest.mark.integration, pytest.mark.fault]

SYNC = ("mode=sync", "max_staleness=0")
WRITE = "buffers.files:OsFiles.write"
FULL = {
    "a ledger row": Cut(target=WRITE, about="/events-", call=9),
    "a payload": Cut(target=WRITE, about="/trajectories-", call=4),
    "a checkpoint": Cut(target="learners.checkpoint:save_file", call=6),
    "merged segments": Cut(target=WRITE, about=".parquet"),
}


def fill_the_disk(ballast: Path, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Leave no byte free, then go on."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return original(*args, **named)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", tmp_path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("uninterrupted"), SYNC)
    assert run.play() == 0, run.log
    return run


@pytest.mark.parametrize("what", FULL)
def test_a_disk_that_is_full_ends_the_run_with_one_sentence_and_loses_nothing(
    small_disk: Path, uninterrupted: Run, what: str
):
    run, ballast = Run(small_disk, SYNC), small_disk / "ballast"
    full = Cut(target=FULL[what].target, about=FULL[what].about, call=FULL[what].call,
               half=partial(fill_the_disk, ballast), kills=False)  # fmt: skip
    assert run.play(fault=full) == 2, run.log
    assert run.log.strip().endswith("free the disk, then resume the run") and "Traceback" not in run.log, run.log
    ballast.unlink()
    assert run.resume() == 0, run.log
    run.check_books()
    assert run.fingerprint() == uninterrupted.fingerprint()


def write_what_waits(commit: Callable[..., Any], host: Any, version: int) -> None:
    """Then the ledger's last frame is of the batch, and not of its admission, without which nothing was generated."""
    host._payload_log.flush(30.0)
    host._ledger.flush(30.0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was killed at version 5, with checkpoints of versions 2 and 4, and every row on disk."""
    run = Run(tmp_path_factory.mktemp("killed"), (*SYNC, "buffer.segment_bytes=1000000"))
    cut = Cut(target="buffers.host:BufferHost.commit", call=6, half=write_what_waits)
    assert run.play(cut=cut) == KILLED, run.log
    return run


@pytest.fixture
def damaged(killed: Run, tmp_path: Path) -> Run:
    """A copy to be damaged."""
    shutil.copytree(killed.path, tmp_path / "run")
    return Run(tmp_path, killed.words)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def cut_short(data: bytes) -> bytes:
    return data[: len(data) - 100]


REFUSED = {
    "a ledger segment is garbled": ("ledger/events-*.seg", flip, "fails its checksum; restore the file"),
    "a payload segment is garbled": ("trajectories/trajectories-*.seg", flip, "fails its checksum; restore the file"),
    "weights are garbled": ("checkpoints/v00000004/model.safetensors", flip, "remove that folder"),
    "moments are short": ("checkpoints/v00000004/optimizer.safetensors", cut_short, "remove that folder"),
    "a state is short": ("checkpoints/v00000004/state.json", cut_short, "remove that folder"),
    "an epoch's marker is garbled": ("ledger/epoch-0001.json", cut_short, "restore it from a copy"),
    # In the middle of a key, so that what is left is no YAML.
    "the configuration is short": ("config.yaml", lambda data: data[: data.index(b"max_grad_norm") + 5], "correct the"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_damage_is_refused_by_name_and_repaired_as_the_message_says(damaged: Run, uninterrupted: Run, damage: str):
    pattern, change, remedy = REFUSED[damage]
    (file,) = damaged.path.glob(pattern)
    before = file.read_bytes()
    file.write_bytes(change(before))
    assert damaged.resume() in (1, 2), damaged.log
    last = damaged.log.strip().splitlines()[-1]
    assert file.name.split(".")[0] in last and remedy in last and "Traceback" not in damaged.log, damaged.log
    if "remove that folder" in remedy:
        shutil.rmtree(file.parent)
    else:
        name = file.name.removesuffix(".seg")
        (file,) = file.parent.glob(f"{name}*")  # a new epoch renames segments
        file.write_bytes(before)
    assert damaged.resume() == 0, damaged.log
    damaged.check_books()
    assert damaged.fingerprint() == uninterrupted.fingerprint()


def test_a_ledger_whose_last_rows_are_gone_is_what_a_crash_leaves(damaged: Run, uninterrupted: Run):
    for pattern in ("ledger/events-*.seg", "ledger/scores-*.seg"):
        (file,) = damaged.path.glob(pattern)
        file.write_bytes(cut_short(file.read_bytes()))
    assert damaged.resume() == 0, damaged.log
    damaged.check_books()
    assert damaged.fingerprint() == uninterrupted.fingerprint()


def test_a_checkpoint_that_the_surviving_lineage_lacks_is_passed_over(damaged: Run, uninterrupted: Run):
    # What a learner leaves that lived on after its run was killed and resumed.
    folder = damaged.path / "checkpoints"
    foreign = Path(shutil.copytree(folder / "v00000004", folder / "v00000005"))
    state = json.loads((foreign / "state.json").read_text())
    state["progress"] |= {"version": 5, "trained_digest": "of another lineage"}
    (foreign / "state.json").write_text(json.dumps(state))
    assert damaged.resume() == 0, damaged.log
    assert damaged.sql("SELECT min(version) AS v FROM versions WHERE lineage = 1")[0]["v"] == 4
    assert damaged.fingerprint() == uninterrupted.fingerprint()


@pytest.mark.parametrize(
    "setting", ["seed=1", "batch.num_generations=2", "model.dtype=bfloat16", "learner.beta=0.5", "tasks.shuffle=false"]
)
def test_a_setting_that_a_record_rests_on_is_refused_before_anything_is_overwritten(damaged: Run, setting: str):
    before = (damaged.path / "config.yaml").read_bytes()
    assert damaged.resume(setting) == 2
    last = damaged.log.strip().splitlines()[-1]
    assert last.startswith(f"error: {setting.partition('=')[0]} is ") and "was begun with" in last, last
    assert (damaged.path / "config.yaml").read_bytes() == before

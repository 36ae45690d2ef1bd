"""Resumes that are cut short themselves, repeated, or go on with every kind of learner state."""

from __future__ import annotations

from pathlib import Path

import pytest

from buffers.records.audit import audit
from tests.faults.kill_at import Cut, half_a_write
from tests.faults.killed_runs import KILLED, Run

pytestmark = [pytest.mark.integration, pytest.mark.fault]

SYNC = ("mode=sync", "max_staleness=0")
WRITE = "buffers.files:OsFiles.write"
LATE = Cut(target="buffers.host:BufferHost.commit", call=4)

IN_THE_RESUME = {
    "before anything of it is stored": Cut(target=WRITE, about="/versions-"),
    "half of its version row written": Cut(target=WRITE, about="/versions-", half=half_a_write),
    "rolled back, not dispatched again": Cut(target=WRITE, about="/events-", call=2),
    "half of the slots dispatched again": Cut(target="buffers.stream:StreamBuffer.restore", call=3),
    "after its first update": LATE,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("uninterrupted"), SYNC)
    assert run.play() == 0, run.log
    return run


@pytest.mark.parametrize("state", IN_THE_RESUME)
def test_a_resume_that_is_killed_can_be_resumed(tmp_path: Path, uninterrupted: Run, state: str):
    run = Run(tmp_path, (*SYNC, "buffer.commit_interval_s=0"))
    assert run.play(cut=LATE) == KILLED, run.log
    assert run.resume(cut=IN_THE_RESUME[state]) == KILLED, run.log
    assert run.resume() == 0, run.log
    run.check_books()
    assert run.fingerprint() == uninterrupted.fingerprint()


def test_a_run_in_three_parts_equals_one_in_one_part(tmp_path: Path, uninterrupted: Run):
    run = Run(tmp_path, SYNC)
    for code, words in ((0, ("updates=1",)), (0, ("updates=3", "resume=true")), (0, ("resume=true",))):
        assert run.play(*words) == code, run.log
        run.check_books()
    assert run.fingerprint() == uninterrupted.fingerprint()


LEARNERS = {
    "several steps per batch": ("learner.num_iterations=2", "learner.minibatches=2", "learner.beta=0.05"),
    "decaying rate": ("learner.schedule=cosine", "learner.warmup_updates=2", "learner.weight_decay=0.1"),
    "prioritised sampler": ("buffer.sampler.target=prioritised",),
    "filtered groups": ("buffer.filters=[{target: zero_variance}]",),
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_every_learner_state_goes_on_bit_for_bit(tmp_path: Path, kind: str):
    whole, cut = (Run(tmp_path / name, (*SYNC, *LEARNERS[kind])) for name in ("whole", "cut"))
    assert whole.play() == 0, whole.log
    assert cut.play(cut=LATE) == KILLED, cut.log
    assert cut.resume() == 0, cut.log
    cut.check_books()
    assert cut.fingerprint() == whole.fingerprint()


def test_a_sampler_that_cannot_go_on_exactly_is_refused_in_sync_mode(tmp_path: Path):
    run = Run(tmp_path, ("buffer.sampler={target: replay, times: 2}",))
    assert run.play(*SYNC, cut=LATE) == KILLED, run.log
    assert run.resume(*SYNC) == 2, run.log
    assert "resume with mode=async" in run.log.splitlines()[-1]
    assert run.resume() == 0, run.log
    books = audit(run.path)
    assert books.balanced, books.problems


def test_a_resume_that_is_stopped_at_once_leaves_balanced_books(tmp_path: Path):
    run = Run(tmp_path, SYNC)
    assert run.play(cut=LATE) == KILLED, run.log
    assert run.resume("updates=2") == 0, run.log
    run.check_books()
    assert run.summary["policy_version"] == 2


def test_a_kill_while_a_checkpoint_is_replaced_loses_neither(tmp_path: Path, uninterrupted: Run):
    run = Run(tmp_path, (*SYNC, "checkpoint.keep_last=1", "checkpoint.keep_best=0"))
    assert run.play("updates=3") == 0, run.log
    replaced = Cut(target="pathlib:Path.rename", about="/.partial-v00000003")
    assert run.resume("updates=3", cut=replaced) == KILLED, run.log
    assert [f.name for f in (run.path / "checkpoints").glob("v*")] == ["v00000003.replaced"]
    assert run.resume() == 0, run.log
    assert [f.name for f in (run.path / "checkpoints").glob("v*")] == ["v00000006"]
    assert run.fingerprint() == uninterrupted.fingerprint()

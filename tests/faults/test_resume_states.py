"""SIGKILL of a whole synchronous run at chosen states: what `resume=true` ends with is what no kill would have given.

Bit for bit: the weights of every version, the slots and digests of every batch, optimiser, reference and
random state of the last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_at import Cut, half_a_file, half_a_write, half_the_weights
from tests.faults.killed_runs import KILLED, Run

pytestmark = [pytest.mark.integration, pytest.mark.fault]

SYNC = ("mode=sync", "max_staleness=0", "learner.beta=0.02")
WRITE, RENAME, REMOVE = (f"buffers.files:OsFiles.{name}" for name in ("write", "rename", "remove"))
SAVE = "learners.checkpoint:save_file"

STATES = {
    "in the warm start": Cut(target="learners.policy_learner:PolicyLearner.supervised_update", call=2),
    "before the first checkpoint": Cut(target="buffers.host:BufferHost.commit", call=2),
    "mid-generation": Cut(target="actors.engines.torch_engine:TorchEngine.step", call=12),
    "generated, payload not stored": Cut(target="buffers.intake:Intake._store", call=5),
    "half of a payload written": Cut(target=WRITE, about="/trajectories-", call=4, half=half_a_write),
    "payload stored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.generated", call=4),
    "half of a ledger row written": Cut(target=WRITE, about="/events-", call=15, half=half_a_write),
    "scored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.scored", call=5),
    "segments merged, not renamed": Cut(target=RENAME, about=".parquet", call=1),
    "segments merged, not removed": Cut(target=REMOVE, about=".seg", call=1),
    "batched, not trained": Cut(target="learners.rank:LearnerRank.update", call=4),
    "trained, not published": Cut(target="learners.delivery:Delivery.publish", call=5),
    "half published": Cut(target="learners.models.weights:fill", call=4, half=half_the_weights),
    "published, not committed": Cut(target="buffers.host:BufferHost.commit", call=4),
    "committed, without a version row": Cut(target="buffers.host:BufferHost.record_version", call=5),
    **{
        f"half of {name} checkpointed": Cut(target=SAVE, about=f"/{name}.", call=2, half=half_a_file)
        for name in ("model", "optimizer", "reference", "rng")
    },
    "checkpoint without a manifest": Cut(target="learners.checkpoint:digest", call=12),
    "checkpoint not renamed": Cut(target="learners.checkpoint:publish", call=2),
    "old checkpoints not deleted": Cut(target="learners.rank:retain", call=2),
    "stream ended, not drained": Cut(target="buffers.host:BufferHost.drain"),
    "drained, without its last checkpoint": Cut(target="learners.rank:save_checkpoint", call=3),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("uninterrupted"), SYNC)
    assert run.play() == 0, run.log
    run.check_books()
    assert len(set(run.fingerprint()["weights"])) == 7, "the reference learns nothing"
    return run


@pytest.mark.parametrize("state", STATES)
def test_a_run_killed_at_a_state_ends_as_if_it_never_was(tmp_path: Path, uninterrupted: Run, state: str):
    run = Run(tmp_path, SYNC)
    assert run.play(cut=STATES[state]) == KILLED, f"it was not killed: the state does not exist any more\n{run.log}"
    assert run.resume() == 0, run.log
    run.check_books()
    assert run.fingerprint() == uninterrupted.fingerprint()

"""SIGKILL of a whole decision run: `resume=true` puts every lane back into the episode that it was in.

In sync mode bit for bit, as for language policies: weights, normalisers, memory, optimiser, slots. In async mode what
is trained of a lane is one unbroken sequence of episodes: none is cut short, so long ones are not lost.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_at import Cut, half_a_file
from tests.faults.killed_runs import KILLED, LANES, Run, check_nothing_is_lost, kill_at_random, last_words
from tests.faults.unbroken import breaks, lanes_of

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.timeout(600)]

SYNC = (
    "mode=sync", "max_staleness=0", "policy.core={target: gru, size: 8}", "learner.actor_critic.burn_in=4",
    "learner.actor_critic.normalise_observations=true", "learner.actor_critic.normalise_returns=true",
)  # fmt: skip
LATE = Cut(target="buffers.host:BufferHost.commit", call=4)

STATES = {
    "before the first checkpoint": Cut(target="buffers.host:BufferHost.commit", call=2),
    "within a fragment": Cut(target="actors.lane_rollouts:LaneRollouts.step", call=44),
    "fragment stored, not in the ledger": Cut(target="buffers.live_groups:LiveGroups.generated", call=4),
    "batched, not trained": Cut(target="learners.rank:LearnerRank.update", call=4),
    "trained, not published": Cut(target="learners.delivery:Delivery.publish", call=5),
    "published, not committed": LATE,
    "half of the normalisers checkpointed": Cut(
        target="learners.checkpoint:save_file", about="/rng.", call=2, half=half_a_file
    ),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("uninterrupted"), SYNC, LANES)
    assert run.play() == 0, run.log
    run.check_books()
    assert len(set(run.fingerprint()["weights"])) == 7, "the reference learns nothing"
    assert breaks(run.path) == []
    return run


@pytest.mark.parametrize("state", STATES)
def test_a_decision_run_killed_at_a_state_ends_as_if_it_never_was(tmp_path: Path, uninterrupted: Run, state: str):
    run = Run(tmp_path, SYNC, LANES)
    assert run.play(cut=STATES[state]) == KILLED, f"it was not killed: the state does not exist any more\n{run.log}"
    assert run.resume() == 0, run.log
    run.check_books()
    assert breaks(run.path) == []
    assert run.fingerprint() == uninterrupted.fingerprint()


def test_a_resume_that_is_killed_while_lanes_are_on_their_way_back_can_be_resumed(tmp_path: Path, uninterrupted: Run):
    run = Run(tmp_path, SYNC, LANES)
    assert run.play(cut=LATE) == KILLED, run.log
    assert run.resume(cut=Cut(target="actors.lane_rollouts:retrace", call=4)) == KILLED, run.log
    assert run.resume(cut=LATE) == KILLED, run.log
    assert run.resume() == 0, run.log
    run.check_books()
    assert run.fingerprint() == uninterrupted.fingerprint()


OTHERS = {
    "GAE, several passes, a target network": (
        "learner.actor_critic.returns.target=gae", "learner.num_iterations=2", "learner.minibatches=2",
        "learner.loss.target=impact", "learner.actor_critic.target_every=3", "learner.warmup_updates=2",
    ),
    "captions and a reward for novelty": (
        "environment.backend={target: gymnasium, id: MiniGrid-DoorKey-5x5-v0, keys: [image, direction]}",
        "environment.captions={target: minigrid}", "environment.fragment_length=30", "intrinsic=counts",
        "exploration.annotation.annotator.rules=[{match: key, value: 1}]",
        "environment.success_return=0.01",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_state_go_on_bit_for_bit(tmp_path: Path, kind: str):
    words = ("mode=sync", "max_staleness=0", *OTHERS[kind])
    whole, cut = (Run(tmp_path / name, words, LANES) for name in ("whole", "cut"))
    assert whole.play() == 0, whole.log
    assert cut.play(cut=LATE) == KILLED, cut.log
    assert cut.resume() == 0, cut.log
    cut.check_books()
    assert breaks(cut.path) == []
    assert cut.fingerprint() == whole.fingerprint()


def test_kills_at_random_instants_cut_no_episode_short(tmp_path: Path):
    words = ("max_staleness=2", "rollout.workers=2", "rollout.max_delay_s=0.02")
    run = Run(tmp_path, words, LANES)
    kill_at_random(run, seed=11, times=3)
    at_the_kill = last_words(run)
    reached = run.sql("SELECT max(version) AS v FROM versions")[0]["v"]
    assert run.resume(f"updates={reached + 6}") == 0, run.log
    check_nothing_is_lost(run, at_the_kill)
    assert breaks(run.path) == []
    begun = [told.came_from[0] for lane in lanes_of(run.path).values() for told in lane if told.came_from[1] == 0]
    assert len(begun) == len(set(begun)), "a seed began two episodes"

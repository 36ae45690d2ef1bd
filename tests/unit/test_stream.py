"""The stream buffer: admission, leases, groups, staleness, batches, and books that balance."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_scene import Scene, shuffled

from buffers.admission import group_capacity, may_admit
from buffers.filters import ZeroVariance
from buffers.records.audit import audit
from buffers.samplers import InOrder, Prioritised, Replay
from buffers.staleness import can_wait
from configs.errors import RunError


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 4), st.integers(0, 3), st.integers(1, 3))
def test_groups_can_wait_exactly_when_some_schedule_meets_every_deadline(floors, version, staleness, per_update):
    deadlines = [floor + staleness for floor in floors]

    def feasible(order: tuple[int, ...]) -> bool:
        return all(version + 1 + place // per_update <= deadline for place, deadline in enumerate(order))

    expected = any(feasible(order) for order in permutations(deadlines)) if len(deadlines) <= 5 else None
    found = can_wait(floors, version=version, max_staleness=staleness, groups_per_update=per_update)
    if expected is not None:
        assert found == expected


@given(st.integers(0, 5), st.integers(0, 20), st.integers(1, 8), st.integers(1, 8))
def test_capacity_is_the_admission_formula_in_groups(staleness, version, prompts, members):
    groups = group_capacity(
        max_staleness=staleness, trained_groups=version * prompts, fresh_next=prompts, fresh_later=prompts
    )
    assert groups * members == (staleness + version + 1) * prompts * members


def test_a_full_buffer_still_completes_the_batch_that_the_learner_waits_for():
    full = {"max_staleness": 4, "fresh_next": 2, "fresh_later": 2, "held_bytes": 10, "max_bytes": 10}
    assert may_admit(live_groups=1, trained_groups=0, **full)
    assert not may_admit(live_groups=2, trained_groups=0, **full)


def test_admission_stops_at_the_bound_and_opens_with_each_version(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=2, members=2, max_staleness=1)
    units = scene.buffer.lease("w", 100)
    assert len(units) == (1 + 0 + 1) * 2 * 2
    assert scene.buffer.lease("w", 100) == []
    scene.finish(units)
    scene.train()
    assert len(scene.buffer.lease("w", 100)) == 2 * 2
    scene.close()


def test_a_group_is_admitted_whole_though_its_slots_are_leased_apart(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=4, max_staleness=0)
    first, second = scene.buffer.lease("a", 3), scene.buffer.lease("b", 3)
    assert [u.slot.sample for u in first + second] == [0, 1, 2, 3]
    scene.close()


def test_batches_are_ordered_by_identity_however_results_arrive(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=4, members=3, max_staleness=0)
    units = scene.buffer.lease("w", 100)
    for unit in shuffled(units, random.Random(1)):
        scene.finish([unit])
    batch = scene.train()
    assert batch.ids == [f"{u.slot}.0.0" for u in units]
    scene.close()


def test_a_batch_table_holds_the_rows_and_rewards_of_its_batch(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=2, members=2, max_staleness=0)
    units = scene.buffer.lease("w", 4)
    scene.deliver(units[:3])
    scene.deliver(units[3:])
    scene.score(shuffled(units, random.Random(0)), [1.0, 1.0, 1.0, 1.0])
    batch = scene.buffer.compose()
    table = scene.buffer.table(batch)
    assert table.column("id").to_pylist() == batch.ids
    assert table.column("reward").to_pylist() == [1.0] * 4
    assert table.column("tokens").to_pylist() == [[0, 1, 2]] * 4
    scene.close()


def test_an_invalid_score_leaves_the_group_and_is_never_zero(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=3, max_staleness=0)
    units = scene.buffer.lease("w", 3)
    scene.deliver(units)
    scene.score(units, [1.0, None, 0.0])
    batch = scene.train()
    assert [row.reward for row in batch.rows] == [1.0, 0.0]
    scene.close()
    result = audit(tmp_path / "run")
    assert result.balanced, result.problems
    assert result.totals["failed"] == 1


def test_a_group_without_any_valid_member_is_replaced_by_another(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0)
    units = scene.buffer.lease("w", 2)
    scene.deliver(units)
    scene.score(units, [None, None])
    replacement = scene.buffer.lease("w", 9)
    assert [u.slot.task for u in replacement] == [1, 1]
    scene.finish(replacement)
    scene.train()
    scene.close()
    assert audit(tmp_path / "run").balanced


def test_the_zero_variance_filter_drops_a_group_and_refills_the_batch(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0, filters=[ZeroVariance()])
    units = scene.buffer.lease("w", 9)
    scene.deliver(units)
    scene.score(units, [1.0, 1.0])
    assert scene.buffer.compose() is None
    assert scene.buffer.dropped == {"zero_variance": 2}
    scene.finish(scene.buffer.lease("w", 9))
    assert {row.reward for row in scene.train().rows} == {0.0, 1.0}
    scene.close()
    assert audit(tmp_path / "run").balanced


def test_slots_of_a_lost_worker_become_new_attempts_and_its_late_answer_is_ignored(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0)
    units = scene.buffer.lease("dead", 2)
    assert scene.buffer.lose("dead") == 2
    again = scene.buffer.lease("alive", 2)
    assert [(u.slot, u.attempt) for u in again] == [(u.slot, 1) for u in units]
    assert scene.deliver(units) is None
    scene.finish(again)
    scene.train()
    scene.close()
    result = audit(tmp_path / "run")
    assert result.balanced, result.problems
    assert result.totals["trained"] == 2


def test_a_message_that_arrives_twice_counts_once(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0)
    units = scene.buffer.lease("w", 2)
    assert scene.deliver(units).num_rows == 2
    assert scene.deliver(units) is None
    scene.score(units, [0.0, 1.0])
    scene.score(units, [1.0, 0.0])
    assert [row.reward for row in scene.train().rows] == [0.0, 1.0]
    scene.close()
    assert audit(tmp_path / "run").balanced


@pytest.mark.parametrize("retry", [True, False])
def test_a_failed_attempt_is_tried_again_only_where_that_can_help(tmp_path: Path, retry: bool):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0, max_attempts=2)
    units = scene.buffer.lease("w", 2)
    scene.finish(units[:1])
    scene.buffer.fail(units[1].slot, 0, "engine error", retry=retry)
    again = scene.buffer.lease("w", 2)
    assert len(again) == int(retry)
    for unit in again:
        scene.buffer.fail(unit.slot, unit.attempt, "engine error", retry=True)
    assert len(scene.train().rows) == 1
    scene.close()
    result = audit(tmp_path / "run")
    assert result.balanced, result.problems
    assert result.totals["failed"] == 1


def fail_group(scene: Scene) -> None:
    for unit in scene.buffer.lease("w", scene.members):
        scene.buffer.fail(unit.slot, unit.attempt, "no room for\nthe prompt", retry=False)


def test_groups_that_all_fail_from_the_start_end_the_run_with_their_reason(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0, max_failed_groups=2)
    fail_group(scene)
    assert scene.buffer.compose() is None and "failed: no room for the prompt" in scene.buffer.awaiting()
    fail_group(scene)
    assert scene.buffer.lease("w", 2) == []
    with pytest.raises(RunError, match=r"the first 2 groups have failed, .*: no room for the prompt$"):
        scene.buffer.compose()
    scene.close()
    result = audit(tmp_path / "run")
    assert result.balanced and result.totals["failed"] == result.totals["admitted"] == 4


def test_groups_that_fail_after_a_reward_are_an_outage_that_ends_with_the_progress_deadline(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0, max_failed_groups=2)
    fail_group(scene)
    scene.finish(scene.buffer.lease("w", 2))
    scene.train()
    for _ in range(9):
        fail_group(scene)
    scene.finish(scene.buffer.lease("w", 2))
    assert len(scene.train().rows) == 2
    scene.close()


def test_members_missing_at_the_group_deadline_are_failed_and_the_rest_is_trained(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=3, max_staleness=0, group_deadline_s=10.0)
    units = scene.buffer.lease("w", 3)
    scene.finish(units[:1])
    scene.deliver(units[1:2])
    scene.now = 11.0
    assert scene.buffer.expire() == 2
    assert len(scene.train().rows) == 1
    assert scene.deliver(units[2:]) is None
    scene.close()
    result = audit(tmp_path / "run")
    assert result.balanced, result.problems
    assert result.totals["failed"] == 2


def test_waiting_holds_the_learner_back_while_a_running_group_would_become_too_old(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=1, max_staleness=1)
    slow, quick = scene.buffer.lease("w", 2)
    scene.finish([quick])
    scene.train()
    newer = scene.buffer.lease("w", 1)
    scene.finish(newer)
    assert scene.buffer.compose() is None
    scene.finish([slow], (0, 1))
    assert scene.train().rows[0].id.startswith(str(slow.slot))
    scene.close()


def test_dropping_generates_a_stale_group_again_instead_of_waiting_for_it(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=1, max_staleness=0, policy="drop")
    unit = scene.buffer.lease("w", 1)
    scene.buffer.version = 1  # the learner went on
    scene.finish(unit, (0, 1))
    assert scene.buffer.compose() is None
    assert scene.buffer.dropped == {"stale": 1}
    again = scene.buffer.lease("w", 1)
    assert (again[0].slot, again[0].attempt) == (unit[0].slot, 1)
    scene.close()
    assert audit(tmp_path / "run").balanced


def test_in_order_waits_for_the_straggler_that_is_next(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=1, members=1, max_staleness=2, sampler=InOrder())
    first, second, third = scene.buffer.lease("w", 3)
    scene.finish([second, third])
    assert scene.buffer.compose() is None
    scene.finish([first])
    assert [scene.train().rows[0].id for _ in range(3)] == [f"{u.slot}.0.0" for u in (first, second, third)]
    scene.close()


def test_prioritised_draws_do_not_depend_on_arrival_and_favour_spread_rewards(tmp_path: Path):
    drawn: Counter[int] = Counter()
    for seed in range(40):
        orders = set()
        for arrival in (1, 2):
            folder = tmp_path / f"{seed}-{arrival}"
            scene = Scene(folder, groups=1, members=2, max_staleness=3, sampler=Prioritised(alpha=2.0, seed=seed))
            units = scene.buffer.lease("w", 8)
            for unit in shuffled(units, random.Random(arrival)):
                scene.deliver([unit])
                scene.score([unit], [float(unit.slot.sample) if unit.slot.task == 2 else 1.0])
            orders.add(scene.train().groups[0].key.task)
            scene.close()
        assert len(orders) == 1
        drawn.update(orders)
    assert drawn[2] > 30


def test_replay_trains_a_sample_at_most_n_times_and_within_its_own_age(tmp_path: Path):
    scene = Scene(tmp_path / "run", groups=2, members=2, max_staleness=1, sampler=Replay(times=2, share=0.5, max_age=3))
    times: Counter[str] = Counter()
    for _ in range(12):
        scene.finish(scene.buffer.lease("w", 100))
        batch = scene.train()
        assert all(batch.version - row.oldest_version <= 3 for row in batch.rows)
        times.update(batch.ids)
    assert max(times.values()) == 2
    assert sum(count == 2 for count in times.values()) >= 10
    scene.close()
    assert scene.buffer.payloads.held_bytes == 0
    result = audit(tmp_path / "run")
    assert result.balanced, result.problems


@pytest.mark.parametrize("seed", range(30))
def test_random_lives_keep_the_bound_train_nothing_twice_and_balance(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    staleness, policy = rng.randrange(4), rng.choice(["wait", "drop"])
    scene = Scene(
        tmp_path / "run", groups=rng.randint(1, 3), members=rng.randint(1, 4), max_staleness=staleness, policy=policy,
        sampler=rng.choice([None, InOrder(), Prioritised()]), filters=[ZeroVariance()] if rng.random() < 0.3 else [],
    )  # fmt: skip
    running: list[tuple[str, object, int]] = []
    trained: Counter[str] = Counter()
    for _ in range(300):
        worker, dice = rng.choice("abc"), rng.random()
        if dice < 0.35:
            running += [(worker, unit, scene.buffer.version) for unit in scene.buffer.lease(worker, rng.randint(1, 5))]
        elif dice < 0.75 and running:
            _, unit, start = running.pop(rng.randrange(len(running)))
            swap = rng.randint(start, scene.buffer.version)
            if scene.deliver([unit], (start, 1), *([(swap, 1)] if swap > start else [])) is not None:
                scene.score([unit], [rng.choice([0.0, 1.0, None]) if rng.random() < 0.2 else rng.random()])
        elif dice < 0.8 and running:
            _, unit, _ = running.pop()
            scene.buffer.fail(unit.slot, unit.attempt, "engine error", retry=rng.random() < 0.8)
        elif dice < 0.83:
            scene.buffer.lose(worker)
            running = [entry for entry in running if entry[0] != worker]
        elif (batch := scene.buffer.compose()) is not None:
            assert all(batch.version - row.oldest_version <= staleness for row in batch.rows)
            trained.update(row.id.rsplit(".", 2)[0] for row in batch.rows)
            scene.commit(batch)
    scene.close()
    assert set(trained.values()) <= {1}
    assert scene.buffer.payloads.held_bytes == 0
    result = audit(tmp_path / "run")
    assert result.totals["trained"] == sum(trained.values())
    assert result.balanced, result.problems

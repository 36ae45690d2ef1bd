"""Whole groups reach the rewards that compare samples, also when a member never comes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from stream_scene import Scene, trajectory

from buffers.barrier import GroupBarrier
from buffers.samples import to_samples
from buffers.schema import to_table
from buffers.scores import Sample


@pytest.fixture
def scene(tmp_path: Path):
    built = Scene(tmp_path / "run", groups=2, members=3, group_deadline_s=60, max_attempts=2)
    yield built
    built.close()


def samples(table: pa.Table | None) -> list[Sample]:
    assert table is not None
    return to_samples(table)


def test_without_group_rewards_everything_passes_at_once(scene: Scene):
    barrier = GroupBarrier(whole_groups=False, incomplete=scene.buffer.incomplete_groups)
    units = scene.buffer.lease("w", 1)
    assert len(barrier.add(samples(scene.deliver(units)))) == 1


def test_a_group_passes_when_its_last_member_is_there(scene: Scene):
    barrier = GroupBarrier(whole_groups=True, incomplete=scene.buffer.incomplete_groups)
    units = scene.buffer.lease("w", 6)
    assert barrier.add(samples(scene.deliver([units[0], units[3], units[4]]))) == []
    released = barrier.add(samples(scene.deliver([units[5], units[1]])))
    assert [s.group for s in released] == ["toy:0:1"] * 3
    assert len(barrier.add(samples(scene.deliver([units[2]])))) == 3


def test_a_payload_on_its_way_to_the_disk_is_waited_for(scene: Scene):
    barrier = GroupBarrier(whole_groups=True, incomplete=scene.buffer.incomplete_groups)
    units = scene.buffer.lease("w", 3)
    early = to_table([trajectory(units[0], ((0, 2),))])
    scene.buffer.accept(early)
    assert barrier.add(samples(scene.deliver(units[1:]))) == []
    scene.buffer.generated(early.column("id").to_pylist())
    assert len(barrier.add(to_samples(early))) == 3


def test_a_member_that_is_given_up_lets_its_group_pass(scene: Scene):
    barrier = GroupBarrier(whole_groups=True, incomplete=scene.buffer.incomplete_groups)
    units = scene.buffer.lease("w", 3)
    barrier.add(samples(scene.deliver(units[:2])))
    scene.buffer.fail(units[2].slot, 0, "flaky", retry=True)
    assert barrier.release() == [], "another attempt may still come"
    again = scene.buffer.lease("w", 1)
    assert [u.attempt for u in again] == [1]
    scene.buffer.fail(again[0].slot, 1, "flaky", retry=True)
    assert len(barrier.release()) == 2


def test_samples_of_a_late_group_pass_after_its_deadline(scene: Scene):
    barrier = GroupBarrier(whole_groups=True, incomplete=scene.buffer.incomplete_groups)
    units = scene.buffer.lease("w", 3)
    barrier.add(samples(scene.deliver(units[:1])))
    scene.now = 61.0
    scene.buffer.expire()
    assert len(barrier.release()) == 1

"""Shared memory: who owns a name, what is left behind, and what a receiver sees meanwhile."""

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from buffers.run_folder import run_key
from configs.errors import ConfigError, DeadlineExceeded, StaleEpoch
from learners.models.weights import SHARED_FOLDER, Layout, SharedMemoryReceiver
from learners.publish.shared_memory import SharedMemoryPublisher, create, remove_segments

LAYOUT = Layout.of({"a": torch.zeros(1000), "b": torch.zeros(70_000)})


def constant(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((1000,), float(value)), "b": torch.full((70_000,), float(value))}


@pytest.fixture
def name() -> Iterator[str]:
    name = f"headrace-test-{uuid.uuid4().hex}"
    yield name
    remove_segments(name)


def left(name: str) -> list[str]:
    return [path.name for path in SHARED_FOLDER.iterdir() if path.name.startswith(name)]


def test_a_receiver_may_be_built_before_its_publisher(name: str) -> None:
    receiver = SharedMemoryReceiver(name, LAYOUT, deadline_s=0.05)
    assert receiver.poll() is None
    with pytest.raises(DeadlineExceeded, match="no publisher has written one yet"):
        receiver.take()
    publisher = SharedMemoryPublisher(name, LAYOUT, 1)
    assert receiver.poll() is None
    publisher.publish(0, [constant(0)])
    assert receiver.take()[0] == 0


def test_a_slow_receiver_gets_the_newest_version_only(name: str) -> None:
    publisher, receiver = SharedMemoryPublisher(name, LAYOUT, 1), SharedMemoryReceiver(name, LAYOUT)
    for version in range(1, 8):
        publisher.publish(version, [constant(version)])
    version, tensors = receiver.take()
    assert version == 7
    assert tensors["b"].eq(7).all()
    assert receiver.poll() is None


def test_receivers_follow_a_successor_even_to_a_lower_version(name: str) -> None:
    first, receiver = SharedMemoryPublisher(name, LAYOUT, 1), SharedMemoryReceiver(name, LAYOUT)
    first.publish(9, [constant(9)])
    receiver.take()
    second = SharedMemoryPublisher(name, LAYOUT, 2)
    assert receiver.poll() is None
    second.publish(4, [constant(4)])
    assert receiver.poll() == 4
    assert receiver.take()[1]["a"].eq(4).all()


def test_a_restart_within_one_epoch_takes_over_too(name: str) -> None:
    first = SharedMemoryPublisher(name, LAYOUT, 1)
    SharedMemoryPublisher(name, LAYOUT, 1)
    with pytest.raises(StaleEpoch, match="was replaced; stop this process"):
        first.publish(1, [constant(1)])


def test_receivers_follow_a_publisher_that_was_closed_and_built_again(name: str) -> None:
    receiver = SharedMemoryReceiver(name, LAYOUT)
    for version in (1, 2, 3):
        publisher = SharedMemoryPublisher(name, LAYOUT, 1)
        publisher.publish(version, [constant(version)])
        assert receiver.take()[0] == version
        publisher.close()
        assert receiver.poll() is None


def test_closing_leaves_nothing_and_a_replaced_publisher_does_not_remove_its_successor(name: str) -> None:
    first, second = SharedMemoryPublisher(name, LAYOUT, 1), SharedMemoryPublisher(name, LAYOUT, 2)
    first.close()
    second.publish(1, [constant(1)])
    assert SharedMemoryReceiver(name, LAYOUT).take()[0] == 1
    assert len(left(name)) == 2
    second.close()
    assert left(name) == []


def test_a_refused_publisher_leaves_nothing_of_its_own(name: str) -> None:
    SharedMemoryPublisher(name, LAYOUT, 2)
    before = left(name)
    with pytest.raises(StaleEpoch, match="epoch 1 is older than publisher pid"):
        SharedMemoryPublisher(name, LAYOUT, 1)
    assert left(name) == before


def test_a_publication_that_failed_half_way_does_not_spoil_the_next(name: str) -> None:
    publisher, receiver = SharedMemoryPublisher(name, LAYOUT, 1), SharedMemoryReceiver(name, LAYOUT)
    publisher.publish(1, [constant(1)])
    with pytest.raises(ValueError, match=r"tensors \['b'\] are missing"):
        publisher.publish(2, [{"a": torch.zeros(1000)}])
    assert receiver.take()[0] == 1
    publisher.publish(3, [constant(3)])
    version, tensors = receiver.take()
    assert version == 3
    assert tensors["b"].eq(3).all()


def test_a_receiver_never_sees_a_mixture_while_a_thread_publishes_at_full_speed(name: str) -> None:
    publisher, receiver = SharedMemoryPublisher(name, LAYOUT, 1), SharedMemoryReceiver(name, LAYOUT, deadline_s=5)
    stop = threading.Event()

    def work() -> None:
        version = 0
        while not stop.is_set():
            publisher.publish(version := version + 1, [constant(version)])

    thread = threading.Thread(target=work)
    thread.start()
    versions = []
    for _ in range(100):
        version, tensors = receiver.take()
        versions.append(version)
        assert all(tensor.eq(version).all() for tensor in tensors.values())
    stop.set()
    thread.join()
    assert versions == sorted(versions)
    assert len(set(versions)) > 1


def test_a_write_that_never_ends_is_named_by_version_and_publisher(name: str) -> None:
    publisher, receiver = SharedMemoryPublisher(name, LAYOUT, 1), SharedMemoryReceiver(name, LAYOUT, deadline_s=0.05)
    publisher.publish(1, [constant(1)])
    half = Path(next(SHARED_FOLDER.glob(f"{name}.*")))
    with open(half, "r+b") as file:
        file.seek(2 * 64)  # the sequence lock of half 1, where the first version went
        file.write((1).to_bytes(8, "little"))
    with pytest.raises(DeadlineExceeded, match=r"version 1 of publisher pid .* of epoch 1: it was overwritten"):
        receiver.take()


def test_another_process_that_receives_and_exits_removes_and_warns_nothing(name: str) -> None:
    publisher = SharedMemoryPublisher(name, LAYOUT, 1)
    publisher.publish(1, [constant(1)])
    program = """
import sys
from learners.models.weights import Layout, SharedMemoryReceiver
receiver = SharedMemoryReceiver(sys.argv[1], Layout.from_json(sys.argv[2]))
assert receiver.take()[1]["b"].eq(1).all()
"""
    command = [sys.executable, "-W", "error", "-c", program, name, LAYOUT.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    publisher.publish(2, [constant(2)])
    assert SharedMemoryReceiver(name, LAYOUT).take()[0] == 2


def test_orphans_are_removed_by_prefix_and_their_publishers_fenced(name: str) -> None:
    orphan, other = SharedMemoryPublisher(f"{name}-policy", LAYOUT, 1), SharedMemoryPublisher(f"{name}x", LAYOUT, 1)
    assert len(remove_segments(f"{name}-")) == 2
    with pytest.raises(StaleEpoch):
        orphan.publish(1, [constant(1)])
    other.publish(1, [constant(1)])
    with pytest.raises(ValueError, match="prefix is empty"):
        remove_segments("")


def test_runs_of_one_name_in_two_places_have_different_keys(tmp_path: Path) -> None:
    keys = {run_key(tmp_path / place / "run") for place in ("x", "y")}
    assert len(keys) == 2 and all(key.startswith("headrace-run-") for key in keys)
    assert run_key(tmp_path / "x" / ".." / "x" / "run") in keys


def test_memory_that_the_host_does_not_have_is_refused_with_a_remedy(name: str) -> None:
    vast = Layout((), 1 << 50)
    with pytest.raises(ConfigError, match=r"cannot hold .* bytes for weights.*publish\.backend=object_store"):
        create(SHARED_FOLDER / name, vast, 2, epoch=1)
    assert left(name) == []

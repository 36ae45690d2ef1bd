"""A publisher stopped or killed while it writes: nobody ever loads mixed bytes."""

import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch

from configs.errors import StaleEpoch
from learners.models.weights import LOCK, SHARED_FOLDER, Layout, Segment, SharedMemoryReceiver
from learners.publish.shared_memory import SharedMemoryPublisher, remove_segments

pytestmark = pytest.mark.fault

SIZE = 4_000_000  # floats; one write takes milliseconds, so that a signal lands within it
LAYOUT = Layout.of({"w": torch.zeros(SIZE)})
PUBLISH_FOREVER = """
import sys
import torch
from configs.errors import StaleEpoch
from learners.models.weights import Layout
from learners.publish.shared_memory import SharedMemoryPublisher
torch.set_num_threads(1)
layout = Layout.from_json(sys.argv[2])
publisher = SharedMemoryPublisher(sys.argv[1], layout, epoch=int(sys.argv[3]))
weights, version = torch.zeros(layout.specs[0].shape), 0
while True:
    version += 1
    try:
        publisher.publish(version, [{"w": weights.fill_(version)}])
    except StaleEpoch as error:
        sys.exit(f"fenced: {error}")
"""


@pytest.fixture
def name() -> Iterator[str]:
    name = f"headrace-test-{uuid.uuid4().hex}"
    yield name
    remove_segments(name)


@pytest.fixture
def writer(name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that publishes constants, epoch 1, as fast as it can."""
    command = [sys.executable, "-c", PUBLISH_FOREVER, name, LAYOUT.to_json(), "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        SharedMemoryReceiver(name, LAYOUT, deadline_s=120).take()
        yield process
        process.kill()


def stop_inside_a_write(process: subprocess.Popen[str], name: str) -> tuple[Segment, int]:
    """Stop `process` with a half of mixed bytes; return its segment and that half."""
    (path,) = SHARED_FOLDER.glob(f"{name}.*")
    segment = Segment(Path(path), LAYOUT, 2)
    for _ in range(1000):
        while not any(record[LOCK] & 1 for record in segment.records):
            pass
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        for half in (0, 1):
            written = segment.halves[half].view(np.float32)
            if segment.records[half][LOCK] & 1 and written[0] != written[SIZE - 1]:
                return segment, half
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    raise AssertionError("the process was never stopped within a write")


def taken(receiver: SharedMemoryReceiver) -> tuple[int, set[float]]:
    """Return the version taken, and the least and the greatest of its values."""
    version, tensors = receiver.take()
    return version, {bound.item() for bound in tensors["w"].aminmax()}


def test_a_stopped_publisher_is_fenced_and_its_mixed_bytes_are_never_loaded(
    writer: subprocess.Popen[str], name: str
) -> None:
    segment, half = stop_inside_a_write(writer, name)
    receiver = SharedMemoryReceiver(name, LAYOUT, deadline_s=5)
    version, values = taken(receiver)
    assert values == {float(version)}

    successor = SharedMemoryPublisher(name, LAYOUT, epoch=2)
    successor.publish(1, [{"w": torch.full((SIZE,), -1.0)}])
    assert taken(receiver) == (1, {-1.0})

    mixed = segment.halves[half].copy()
    writer.send_signal(signal.SIGCONT)
    assert "was replaced; stop this process" in writer.communicate(timeout=30)[1]
    assert (segment.halves[half] != mixed).any(), "the resumed process was meant to finish its write"
    assert receiver.poll() is None
    assert taken(receiver) == (1, {-1.0})
    with pytest.raises(StaleEpoch, match="epoch 1 is older"):
        SharedMemoryPublisher(name, LAYOUT, epoch=1)


def test_a_publisher_killed_within_a_write_leaves_the_version_before_it(
    writer: subprocess.Popen[str], name: str
) -> None:
    stop_inside_a_write(writer, name)
    writer.kill()
    writer.wait(timeout=30)
    receiver = SharedMemoryReceiver(name, LAYOUT, deadline_s=5)
    version, values = taken(receiver)
    assert values == {float(version)}
    successor = SharedMemoryPublisher(name, LAYOUT, epoch=1)
    successor.publish(version + 1, [{"w": torch.full((SIZE,), 0.5)}])
    assert taken(receiver) == (version + 1, {0.5})


def test_a_receiver_raced_by_the_writer_takes_whole_versions_only(writer: subprocess.Popen[str], name: str) -> None:
    receiver = SharedMemoryReceiver(name, LAYOUT, deadline_s=60)
    versions = []
    for _ in range(8):
        version, values = taken(receiver)
        assert values == {float(version)}
        versions.append(version)
    assert versions == sorted(versions)
    assert writer.poll() is None


SMALL = Layout.of({"w": torch.zeros(64)})


def constant(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((64,), value)}


def publish_with_a_takeover(publisher: SharedMemoryPublisher, at_line: int, takeover: Callable[[], None]) -> int:
    """Publish version 2; call `takeover` before the n-th line of it. Return how many lines there were."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        nonlocal lines
        if not frame.f_code.co_filename.endswith("shared_memory.py"):
            return None
        if event == "line":
            lines += 1
            if lines == at_line:
                sys.settrace(None)
                takeover()
                sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        publisher.publish(2, [constant(2.0)])
    except StaleEpoch:
        pass
    finally:
        sys.settrace(None)
    return lines


def test_a_successor_may_take_over_at_any_line_of_a_publication(name: str) -> None:
    """The old publisher never speaks again, wherever it was. Fails if a successor writes where the old one might."""
    for at_line in itertools.count(1):
        here = f"{name}-{at_line}"
        old = SharedMemoryPublisher(here, SMALL, epoch=1)
        old.publish(1, [constant(1.0)])
        receiver = SharedMemoryReceiver(here, SMALL, deadline_s=5)
        assert receiver.take()[0] == 1
        successors: list[SharedMemoryPublisher] = []

        def takeover(here: str = here, successors: list[SharedMemoryPublisher] = successors) -> None:
            successors.append(SharedMemoryPublisher(here, SMALL, epoch=2))
            successors[0].publish(7, [constant(7.0)])

        if publish_with_a_takeover(old, at_line, takeover) < at_line:
            break
        version, tensors = receiver.take()
        assert version == 7 and set(tensors["w"].tolist()) == {7.0}, f"taken over at line {at_line}"
        with pytest.raises(StaleEpoch):
            old.publish(8, [constant(8.0)])
        assert receiver.poll() is None
        old.close()
        successors[0].publish(9, [constant(9.0)])
        assert receiver.take()[0] == 9
        receiver.close()
        successors[0].close()
    old.close()
    assert at_line > 15

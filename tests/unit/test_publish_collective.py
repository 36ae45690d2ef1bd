"""Collective publishing between real processes, and who is named when one is missing."""

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from configs.errors import ConfigError, DeadlineExceeded, MemberLost
from learners.models.weights import Layout
from learners.publish import World
from learners.publish.collective import CollectivePublisher

LAYOUT = Layout.of({"w": torch.zeros(1_500_000), "b": torch.zeros(9, dtype=torch.bfloat16)})
PROGRAM = """
import pickle, sys
import torch
receiver = pickle.loads(bytes.fromhex(sys.argv[1]))()
for _ in range(int(sys.argv[2])):
    version, tensors = receiver.take()
    print(version, *(t.double().sum().item() for t in tensors.values()), flush=True)
"""


def constant(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1_500_000,), float(value)), "b": torch.full((9,), value, dtype=torch.bfloat16)}


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Receivers started by a test; none outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(publisher: CollectivePublisher, rank: int, takes: int) -> subprocess.Popen[str]:
    make = pickle.dumps(publisher.receiver(rank)).hex()
    command = [sys.executable, "-W", "error", "-c", PROGRAM, make, str(takes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_receive_every_version_and_a_restarted_one_is_served_again(
    processes: list[subprocess.Popen[str]],
) -> None:
    publisher = CollectivePublisher(World(receivers=2), LAYOUT, 1, deadline_s=120, slow_after_s=60)
    processes += [start(publisher, 1, takes=2), start(publisher, 2, takes=2)]
    for version in (1, 2):
        publisher.publish(version, [constant(version)])
    assert processes[1].wait(timeout=120) == 0
    joined = publisher.members()
    processes.append(start(publisher, 2, takes=1))
    while publisher.members() == joined:
        assert processes[2].poll() is None
        time.sleep(0.01)
    assert [token.split()[0] for token in publisher.waiting()] == ["2"]
    publisher.publish(2, [constant(2)])
    expected = [f"{v} {1_500_000.0 * v} {9.0 * v}" for v in (1, 2)]
    lines = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert lines == [expected, expected, expected[1:]]
    publisher.close()


def test_a_receiver_that_never_arrives_or_takes_holds_up_nobody() -> None:
    publisher = CollectivePublisher(World(receivers=3), LAYOUT, 1, slow_after_s=0.2)
    idle, busy = publisher.receiver(1)(), publisher.receiver(2)()
    versions: list[int] = []

    def take_all() -> None:
        while versions != [1, 2, 3]:
            if busy.poll() is not None:
                versions.append(busy.take()[0])

    taker = threading.Thread(target=take_all)
    taker.start()
    for version in (1, 2, 3):
        while versions != list(range(1, version)):
            time.sleep(0.001)
        assert publisher.publish(version, [constant(version)]).missed == 0
    taker.join()
    assert publisher.waiting() == []  # the idle one is silent, the third one is not there
    with pytest.raises(DeadlineExceeded, match="left receiver 1 behind; it is served again"):
        idle.take()
    assert [token.split()[0] for token in publisher.waiting()] == ["1"]
    sender = threading.Thread(target=publisher.publish, args=(3, [constant(3)]))
    sender.start()
    while idle.poll() != 3:
        time.sleep(0.001)
    assert idle.take()[1]["w"].eq(3).all()
    sender.join()
    assert publisher.waiting() == [] and busy.poll() is None
    publisher.close()


def test_a_receiver_without_announcement_or_publisher_says_so() -> None:
    publisher = CollectivePublisher(World(receivers=1), LAYOUT, 1, deadline_s=0.1)
    make = publisher.receiver(1)
    receiver = make()
    with pytest.raises(DeadlineExceeded, match=r"announced no version within 0\.1 s"):
        receiver.take()
    publisher.close()
    with pytest.raises(MemberLost, match="is gone; build the receiver of its successor"):
        receiver.poll()
    with pytest.raises(DeadlineExceeded, match="nobody listens there"):
        make()


def test_a_port_in_use_is_named() -> None:
    first = CollectivePublisher(World(receivers=1), LAYOUT, 1)
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:.*choose another port"):
        CollectivePublisher(World(receivers=1, port=first.port), LAYOUT, 1)
    first.close()


def test_the_group_lives_beside_the_default_group_of_the_training_ranks() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=5))
    publisher = CollectivePublisher(World(receivers=1), LAYOUT, 1, deadline_s=5)
    receiver = publisher.receiver(1)()
    sender = threading.Thread(target=publisher.publish, args=(1, [constant(1)]))
    sender.start()
    assert receiver.take()[1]["w"].eq(1).all()
    sender.join()
    total = torch.ones(3)
    dist.all_reduce(total)
    assert dist.get_world_size() == 1
    assert total.eq(1).all()
    dist.destroy_process_group()
    publisher.close()

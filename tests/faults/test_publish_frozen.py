"""Eight engines receive weights while one of them is frozen: nobody waits for it, and it catches up."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from configs.learning import PublishConfig
from learners.models.weights import Layout
from learners.publish import World, build

pytestmark = pytest.mark.fault
LAYOUT = Layout.of({name: torch.zeros(100_000) for name in "abc"})
ENGINES = 8
ENGINE = """
import pickle, sys, time
from configs.errors import Corruption, DeadlineExceeded
receiver = pickle.loads(bytes.fromhex(sys.argv[1]))()
print("ready", flush=True)
while True:
    if receiver.poll() is None:
        time.sleep(0.01)
        continue
    try:
        version, tensors = receiver.take()
    except (Corruption, DeadlineExceeded):
        continue
    print(version, *(float(t.min()) for t in tensors.values()), *(float(t.max()) for t in tensors.values()), flush=True)
"""


def buckets(version: int) -> list[dict[str, torch.Tensor]]:
    return [{name: torch.full((100_000,), float(version))} for name in "abc"]


class Engine:
    """A process that takes every version it is offered; its output is read without blocking."""

    def __init__(self, make: Callable[[], object]) -> None:
        command = [sys.executable, "-c", ENGINE, pickle.dumps(make).hex()]
        # What an engine says when its publisher ends is of no interest here.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self._output = self.process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._text = b""

    def lines(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            self._text += os.read(self._output, 1 << 16)
        return self._text.decode().splitlines()

    def has(self, version: int) -> bool:
        return f"{version}" + f" {float(version)}" * 6 in self.lines()


@pytest.fixture
def started() -> Iterator[list[Engine]]:
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.process.kill()
        engine.process.communicate()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("backend", ["collective", "shared_memory"])
def test_seven_engines_get_every_version_while_the_eighth_is_frozen(backend: str, started: list[Engine]) -> None:
    section = PublishConfig(backend=backend, deadline_s=60.0, slow_after_s=3.0)
    name = f"headrace-test-{uuid.uuid4().hex}"
    publisher = build(section, name=name, layout=LAYOUT, epoch=1, world=World(receivers=ENGINES))
    started += [Engine(publisher.receiver(rank)) for rank in range(1, ENGINES + 1)]
    until(lambda: all("ready" in engine.lines() for engine in started))

    def publish(version: int, engines: list[Engine]) -> None:
        """Publish, and again for those that answer and lack it, as the driver of a run does."""
        stats = publisher.publish(version, buckets(version))
        while stats.missed or not all(engine.has(version) for engine in engines):
            time.sleep(0.05)
            if stats.missed or publisher.waiting():
                stats = publisher.publish(version, buckets(version))

    publish(1, started)
    frozen = started[3].process
    frozen.send_signal(signal.SIGSTOP)
    until(lambda: "State:\tT" in Path(f"/proc/{frozen.pid}/status").read_text())
    for version in range(2, 7):
        publish(version, [engine for engine in started if engine.process is not frozen])
    assert not any(started[3].has(version) for version in range(2, 7))
    frozen.send_signal(signal.SIGCONT)
    publish(7, started)
    assert started[3].has(1) and started[3].lines()[-1].startswith("7 ")
    publisher.close()

"""How a process ended is told to one who is not its parent, and whose parent asks for nothing."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from actors.exits import ExitWatch, Process

TELLS = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) >= (6, 15)
"""Whether this kernel does."""
PARENT = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as a raylet does
if (child := os.fork()) == 0:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    print(os.getpid(), flush=True)
    while True:
        signal.pause()
sys.stdin.read()
"""


@pytest.fixture
def process() -> Iterator[Process]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-S", "-c", PARENT], **pipes) as parent:
        assert parent.stdout is not None
        yield Process(Process.mine().host, int(parent.stdout.readline()))


@pytest.mark.parametrize(
    ("number", "want"),
    [
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGSEGV, "killed by SIGSEGV"),
        (signal.SIGTERM, "exit code 7"),
    ],
)
async def test_the_signal_or_the_exit_code_is_told(process: Process, number: int, want: str) -> None:
    watch = ExitWatch(process)
    os.kill(process.pid, number)
    assert await watch.told() == (want if TELLS else "")


async def test_nothing_is_told_of_another_host_or_of_who_was_gone_before(process: Process) -> None:
    elsewhere, here = ExitWatch(process._replace(host="another")), ExitWatch(process)
    os.kill(process.pid, signal.SIGKILL)
    await here.told()
    assert await elsewhere.told() == ""
    late = ExitWatch(process)
    assert await late.told() == ""

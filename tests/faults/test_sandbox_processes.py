"""The processes of the sandbox: clients that read in time, zygotes that remember nothing and outlive nobody, folders to
write to, confined children, and the probe that must notice every hole.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import reasoning_gym

from buffers.scores import Sample, ScoreStatus
from rewards.sandbox import bubblewrap, client
from rewards.sandbox.client import ZygoteClient
from rewards.sandbox.pool import Sandbox
from rewards.sandbox.probe import escapes
from rewards.sandbox.program import End, Outcome, SandboxError
from rewards.verifiers.child import ChildPool
from rewards.verifiers.code import CodeTests
from rewards.verifiers.reasoning_gym import ReasoningGym
from tests.faults.sandbox_scene import DEADLINE_S, ORDER, ROOT, confined, confining, runner, zygote_of

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    yield from confining()


@pytest.fixture
def run(sandbox: Sandbox) -> Callable[..., Outcome]:
    return runner(sandbox)


def wait_until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < until, f"still waiting for {what}"
        time.sleep(0.01)


def test_a_deadline_that_is_over_is_noticed_while_there_is_more_to_read(sandbox: Sandbox) -> None:
    zygote = ZygoteClient(ORDER)
    with open("/dev/zero", "rb") as endless:
        pipe = endless.fileno()
        assert zygote._collect({pipe: bytearray()}, {pipe}, time.monotonic() - 1.0) is End.DEADLINE
        assert zygote._collect({pipe: bytearray()}, {pipe}, time.monotonic() + DEADLINE_S) is End.FLOOD
    zygote.close()


class LateClient(ZygoteClient):
    """Notices that its program has ended only when the deadline is over."""

    def _collect(self, written: Mapping[int, bytearray], awaited: set[int], until: float) -> End:
        if self._connection.fileno() not in awaited:
            return super()._collect(written, awaited, until)
        assert select.select([self._connection], [], [], DEADLINE_S)[0]
        return End.DEADLINE


def test_one_that_ended_in_time_is_not_judged_by_a_late_client(sandbox: Sandbox) -> None:
    zygote = LateClient(ORDER)
    outcome = zygote.run({"source": "print(1)"}, DEADLINE_S)
    zygote.close()
    assert (outcome.end, outcome.code, outcome.output) == (End.EXITED, 0, b"1\n")


def test_descriptors_beyond_the_reach_of_select_do(sandbox: Sandbox, run: Callable[..., Outcome]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        zygote = ZygoteClient(ORDER)
        assert zygote.run({"source": "print(1)"}, DEADLINE_S).output == b"1\n"
        zygote.close()
        assert run("print(1)").output == b"1\n"
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_zygote_knows_nothing_of_what_its_programs_wrote(sandbox: Sandbox, run: Callable[..., Outcome]) -> None:
    nonce = f"nonce-{time.time_ns()}"
    assert run(f"print('{nonce[:9]}' + '{nonce[9:]}')  # {nonce}", text=nonce.encode()).output.decode().strip() == nonce
    assert nonce.encode() not in memory_of(zygote_of(sandbox))
    assert b"rewards.sandbox.zygote" in memory_of(zygote_of(sandbox)), "the search finds nothing at all"


def memory_of(pid: int) -> bytes:
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, access, *_ = line.split()
            if access.startswith("rw"):
                start, end = (int(word, 16) for word in span.split("-"))
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


def test_a_program_ends_with_its_zygote_and_the_next_one_runs(sandbox: Sandbox) -> None:
    zygote = ZygoteClient(ORDER)
    zygote.wait_ready()
    seen: list[psutil.Process] = []

    def kill_zygote() -> None:
        wait_until(lambda: any(map(confined, psutil.Process(zygote._process.pid).children())), "the program")
        seen.extend(psutil.Process(zygote._process.pid).children())
        os.kill(zygote._process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_zygote)
    killer.start()
    with pytest.raises(SandboxError, match="ended with status -9"):
        zygote.run({"source": "import time\ntime.sleep(600)"}, DEADLINE_S)
    killer.join()
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in seen), "its end")
    assert sandbox.run({"source": "print(1)"}, DEADLINE_S).output == b"1\n"


@pytest.mark.parametrize("zygote_too", [False, True])
def test_nothing_outlives_a_killed_owner(sandbox: Sandbox, zygote_too: bool) -> None:
    source = (
        "from rewards.sandbox.client import ZygoteClient\n"
        "from rewards.sandbox.program import Order\n"
        f"zygote = ZygoteClient(Order(target={ORDER.target!r}))\n"
        "zygote.wait_ready()\n"
        "print(zygote._process.pid, flush=True)\n"
        "zygote.run({'source': 'import time; time.sleep(600)'}, 600.0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        zygote = psutil.Process(int(owner.stdout.readline()))
        wait_until(lambda: any(map(confined, zygote.children())), "the program")
        left = [zygote, *zygote.children()]
        if zygote_too:
            zygote.suspend()  # so that it cannot end the program itself
        owner.kill()
        zygote.kill() if zygote_too else None
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in left), "their end")


SCRATCH_ORDER = dataclasses.replace(ORDER, scratch_bytes=4 << 20)
FILL = """
import os
try:
    for number in range(64):
        with open(f"/scratch/{number}", "wb") as file:
            file.write(b"x" * (1 << 20))
except OSError as error:
    print(os.strerror(error.errno), file=__import__("sys").stderr)
print(sum(os.path.getsize(f"/scratch/{name}") for name in os.listdir("/scratch")))
"""


@pytest.fixture
def scratch(sandbox: Sandbox) -> Iterator[Sandbox]:
    if refusal := bubblewrap.refusal():
        pytest.skip(f"{refusal} (that it is refused by name is another test)")
    found = Sandbox(SCRATCH_ORDER)
    yield found
    found.close()


def test_a_folder_to_write_to_is_bounded_and_empty_for_each_program(scratch: Sandbox) -> None:
    for _ in range(2):
        outcome = scratch.run({"source": FILL}, DEADLINE_S)
        assert int(outcome.output) <= SCRATCH_ORDER.scratch_bytes and "No space left" in outcome.errors
    assert not Path("/scratch").exists()


def test_with_a_folder_all_else_is_contained_as_without(scratch: Sandbox) -> None:
    assert escapes(SCRATCH_ORDER) == []


@pytest.mark.parametrize(
    ("bwrap", "message"),
    [
        (None, "a scratch folder needs bubblewrap, and there is no `bwrap` here; install it"),
        ("#!/bin/sh\nexit 1\n", "this machine must let bubblewrap make user namespaces"),
    ],
)
def test_without_bubblewrap_or_namespaces_a_folder_is_refused_by_name(
    sandbox: Sandbox, bwrap: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bwrap:
        (tmp_path / "bwrap").write_text(bwrap)
        (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=message):
        Sandbox(SCRATCH_ORDER).warm(1)
    sample = Sample(id="s", group="g", prompt="", completion="", metadata={"tests": [{"output": ""}]})
    (score,) = CodeTests(scratch_mb=4).score([sample])
    assert score.status is ScoreStatus.ERROR and message in score.detail


def peek(item: dict[str, Any]) -> dict[str, Any]:
    """What a confined child runs; the item names what is tried."""
    acts: dict[str, Callable[[], object]] = {
        "secrets": lambda: Path("/proc/self/environ").read_bytes(),
        "network": lambda: socket.socket(),
        "processes": lambda: os.fork(),
        "writing": lambda: os.mkdir(item["path"]),
        "environment": lambda: os.environ["HEADRACE_TEST_KEY"],
        "nothing": lambda: None,
    }
    try:
        acts[item["try"]]()
    except (OSError, KeyError):
        return {"value": 0.0}
    return {"value": 1.0}


@pytest.mark.parametrize("confined", [True, False])
def test_a_confined_child_can_do_nothing_but_think(
    sandbox: Sandbox, confined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_TEST_KEY", "x")
    pool = ChildPool(f"{__name__}:peek", confined=confined)
    managed = [
        pool.judge({"try": what, "path": str(tmp_path / "made")}, DEADLINE_S).value
        for what in ("secrets", "network", "writing", "environment", "processes", "nothing")[: 6 if confined else 4]
    ]
    pool.close()
    assert managed == ([0.0] * 5 + [1.0] if confined else [1.0] * 4)
    assert (tmp_path / "made").exists() is not confined


def test_an_answer_that_its_library_evaluates_runs_in_the_sandbox(sandbox: Sandbox, tmp_path: Path) -> None:
    generator = reasoning_gym.create_dataset("countdown", size=1, seed=3)
    answer = f"__import__('os').mkdir({str(tmp_path / 'made')!r})"
    generator.score_answer(answer, generator[0])
    assert (tmp_path / "made").is_dir(), "the library does not run it any more: this test proves nothing"
    (tmp_path / "made").rmdir()
    metadata = {"dataset": "countdown", "entry": json.loads(json.dumps(generator[0]))}
    sample = Sample(id="s", group="g", prompt="", completion=answer, metadata=metadata)
    (score,) = ReasoningGym(deadline_s=DEADLINE_S).score([sample])
    assert not (tmp_path / "made").exists()
    assert score.value is not None and score.value < 0.1


def nothing(module: str, name: str) -> str:
    return f"import {module} as m; m.{name} = lambda *arguments, **options: None"


HOLES = {
    "new processes: ": nothing("rewards.sandbox.seccomp", "restrict"),
    "secrets: ": nothing("rewards.sandbox.landlock", "restrict"),
    "memory without end: ": nothing("rewards.sandbox.confinement", "_limit"),
    "handles of others: ": "import os; close = os.closerange; os.closerange = lambda low, high: close(low + 1, high)",
    "in the environment": "import os; os.environ['HEADRACE_TEST_KEY'] = 'x'",
    **({"is root": nothing("rewards.sandbox.confinement", "_become")} if os.geteuid() == 0 else {}),
}
"""What the probe must notice -> how a zygote comes to have that hole."""


@pytest.mark.parametrize("noticed", HOLES)
def test_the_probe_notices_a_hole(
    sandbox: Sandbox, noticed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = (ROOT / "rewards/sandbox/boot.py").read_text()
    start = '    importlib.import_module("rewards.sandbox.zygote")'
    assert start in boot
    (tmp_path / "boot.py").write_text(boot.replace(start, f"    {HOLES[noticed]}\n{start}"))
    command: list[Any] = [str(tmp_path / "boot.py") if word.endswith("boot.py") else word for word in client._BOOT]
    monkeypatch.setattr(client, "_BOOT", command)
    found = escapes(ORDER)
    assert any(noticed in line for line in found), found

"""Hostile programs in the sandbox: contained, with a typed verdict by the deadline, and nothing of them is left.

Where this machine cannot confine programs, what is proved is that the sandbox refuses to run any, and says why.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buffers.scores import Sample, ScoreStatus
from rewards.sandbox import confinement
from rewards.sandbox.client import ZygoteClient
from rewards.sandbox.hostile import HOSTILE
from rewards.sandbox.pool import Sandbox
from rewards.sandbox.program import End, Outcome
from rewards.server import RewardServer
from rewards.verifiers.code import CodeTests
from tests.faults.sandbox_scene import DEADLINE_S, ORDER, ROOT, confining, descendants, handles, runner, zygote_of

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    yield from confining()


@pytest.fixture
def run(sandbox: Sandbox) -> Callable[..., Outcome]:
    return runner(sandbox)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_probe_tries_is_contained_and_judged_and_leaves_nothing(sandbox: Sandbox, name: str) -> None:
    sandbox.warm(1)
    before = (handles(os.getpid()), handles(zygote_of(sandbox)), descendants())
    item = {"source": HOSTILE[name], "call": "attempt", "arguments": []}
    outcome = sandbox.run(item, 1.0 if name == "deaf to signals" else DEADLINE_S)
    assert outcome.reply in ([], None) and (outcome.reply == [] or outcome.end is not End.EXITED)
    assert (handles(os.getpid()), handles(zygote_of(sandbox)), descendants()) == before


def test_a_fork_bomb_makes_no_process(run: Callable[..., Outcome]) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    before = descendants()
    assert run(bomb, 1.0).end is End.DEADLINE
    assert descendants() == before


def test_processor_seconds_that_end_before_the_clocks_are_a_deadline_too(run: Callable[..., Outcome]) -> None:
    # On an idle machine both end together, and which is first is chance; here the program asks for less.
    spinning = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass\n"
    outcome = run(spinning)
    assert (outcome.end, outcome.code) == (End.DEADLINE, -signal.SIGXCPU)


def test_a_memory_bomb_ends_at_its_limit(run: Callable[..., Outcome]) -> None:
    outcome = run("x = []\nwhile True: x.append(bytearray(1 << 20))\n")
    assert (outcome.end, outcome.code) == (End.EXITED, 1) and "MemoryError" in outcome.errors


def test_endless_output_is_cut_off(run: Callable[..., Outcome]) -> None:
    for stream in (1, 2, 4):
        outcome = run(f"import os\nwhile True: os.write({stream}, b'x' * 65536)\n")
        assert outcome.end is End.FLOOD and len(outcome.output) <= ORDER.limits.output_bytes + (1 << 16)


def test_secrets_of_the_server_stay_there(
    run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct horse battery staple"
    monkeypatch.setenv("HEADRACE_TEST_KEY", secret)
    file = tmp_path / "answers.jsonl"
    file.write_text(secret)
    outcome = run(
        f"""
import gc, os
print(dict(os.environ))
print([text for text in gc.get_objects() if isinstance(text, str)])
for path in [{str(file)!r}, "/proc/{os.getpid()}/environ", "/proc/{os.getpid()}/mem", "/proc/self/environ",
             "{ROOT}/pyproject.toml", "/etc/passwd"]:
    try:
        print(open(path, "rb").read())
        print("GOT", path)
    except OSError as error:
        print(path, error.strerror)
"""
    )
    assert outcome.code == 0
    assert secret.encode() not in outcome.output and b"GOT" not in outcome.output


def test_nothing_is_written_anywhere(run: Callable[..., Outcome], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    folders = [str(tmp_path), "/tmp", "/var/tmp", "/dev/shm", ".", os.path.expanduser("~")]
    name = f"headrace-escape-{os.getpid()}"
    source = f"""
import os
for folder in {folders!r}:
    for act in (lambda p: open(p, "w").write("x"), os.mkdir, os.mkfifo, lambda p: os.symlink("/etc", p)):
        try:
            act(os.path.join(folder, {name!r}))
            print("WROTE", folder)
        except OSError:
            pass
"""
    assert run(source).output == b""
    assert not [f for f in folders if (Path(f) / name).exists()]


def test_sockets_reach_nobody(run: Callable[..., Outcome], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        unix.bind(str(tmp_path / "socket"))
        outcome = run(
            f"""
import socket
for act in (lambda: socket.create_connection({tcp.getsockname()!r}, 1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", {tcp.getsockname()!r}),
            lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", {unix.getsockname()!r}),
            lambda: socket.socketpair()[0].sendto(b"x", {unix.getsockname()!r})):
    try:
        act()
        print("SENT")
    except OSError:
        pass
"""
        )
        assert (outcome.code, outcome.output) == (0, b"")
        assert select.select([tcp, unix], [], [], 0)[0] == []


@pytest.mark.parametrize("hold", ["while True: pass", "import time; time.sleep(600)", "import signal; signal.pause()"])
def test_one_that_ignores_every_signal_ends_at_its_deadline(run: Callable[..., Outcome], hold: str) -> None:
    deaf = "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
    outcome = run(deaf + hold, 0.5)
    assert (outcome.end, outcome.code) == (End.DEADLINE, -signal.SIGKILL)


def test_one_that_never_stops_writing_a_little_ends_at_its_deadline(run: Callable[..., Outcome]) -> None:
    assert run("import os\nwhile True: os.write(1, b'x')\n", 0.1).end is End.DEADLINE


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user keeps its groups, and Landlock what they could reach")
def test_a_program_of_root_is_a_user_that_nobody_is(sandbox: Sandbox) -> None:
    before = os.getgroups()
    os.setgroups([4])
    try:
        zygote = ZygoteClient(ORDER)
    finally:
        os.setgroups(before)
    source = "import os\nprint(*os.getresuid(), *os.getresgid(), *os.getgroups())"
    ids = zygote.run({"source": source}, DEADLINE_S).output.split()
    zygote.close()
    assert len(ids) == 6 and len(set(ids)) == 1
    assert confinement.FIRST_UID <= int(ids[0]) < confinement.FIRST_UID + confinement.UIDS


def test_its_input_is_no_file_to_write_to(run: Callable[..., Outcome]) -> None:
    source = "import os\ntry: os.write(0, b'x')\nexcept OSError as error: print(error.strerror)"
    assert run(source, text=b"abc").output in (b"File too large\n", b"Operation not permitted\n")


def test_one_that_stops_itself_ends_at_its_deadline(run: Callable[..., Outcome]) -> None:
    assert run("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", 0.5).end is End.DEADLINE


def test_one_that_closes_everything_ends_at_its_deadline(run: Callable[..., Outcome]) -> None:
    assert run("import os, time\nos.closerange(0, 64)\ntime.sleep(600)", 0.5).end is End.DEADLINE


def test_no_daemon_is_left_behind(run: Callable[..., Outcome]) -> None:
    before = descendants()
    source = """
import os, subprocess, multiprocessing, threading, time
for act in (lambda: subprocess.Popen(["sleep", "600"], start_new_session=True),
            lambda: multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start(),
            lambda: os.posix_spawn("/bin/sleep", ["sleep", "600"], {})):
    try:
        act()
        print("LEFT")
    except OSError:
        pass
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
    assert (outcome := run(source)).output == b"" and outcome.code == 0
    assert descendants() == before


def test_other_processes_are_not_signalled(run: Callable[..., Outcome]) -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            outcome = run(
                f"""
import ctypes, os
for pid in ({bystander.pid}, {os.getpid()}, os.getppid(), -1):
    try:
        os.kill(pid, 9)
        print("KILLED")
    except OSError:
        pass
"""
            )
            assert (outcome.code, outcome.output, bystander.poll()) == (0, b"", None)
        finally:
            bystander.kill()


def test_32_bit_system_calls_end_the_program(run: Callable[..., Outcome]) -> None:
    source = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b802000000cd80c3"))  # mov eax, 2 (fork); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("RAN")
"""
    outcome = run(source)
    assert (outcome.code, outcome.output) == (-signal.SIGSYS, b"")


def test_deep_recursion_ends_the_program_alone(run: Callable[..., Outcome]) -> None:
    assert "RecursionError" in run("def f(): f()\nf()").errors
    endless = "import sys\nsys.setrecursionlimit(10**9)\nclass C: __repr__ = lambda self: repr(self)\nrepr(C())"
    assert run(endless).code == -signal.SIGSEGV
    assert run("print(1)").output == b"1\n"


def test_a_reply_that_nests_without_end_is_none(run: Callable[..., Outcome]) -> None:
    assert run("import os\nos.write(4, b'[' * 100_000)\nos._exit(0)").reply is None


@pytest.mark.parametrize(
    "forgery",
    [
        "print('PASS')",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "class Same(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\ndef solve(x): return Same(0)",
        "import os\nos.write(4, b'{\"value\": 1.0}'); os._exit(0)",
        "import os\nos.write(4, b'true'); os._exit(0)",
        "import json\njson.dump = lambda reply, file: file.write('NaN')\ndef solve(x): return 1",
        "import sys\nfor frame in sys._current_frames().values(): print(frame.f_back.f_locals)\ndef solve(x): pass",
    ],
)
def test_a_forged_verdict_is_worth_nothing(sandbox: Sandbox, forgery: str) -> None:
    tests = [{"arguments": [3], "expected": 9}, {"input": "3\n", "output": "9\n"}]
    for test in tests:
        sample = Sample(id="s", group="g", prompt="", completion=forgery, metadata={"tests": [test]})
        (score,) = CodeTests(deadline_s=DEADLINE_S).score([sample])
        assert (score.status, score.value) == (ScoreStatus.OK, 0.0)


async def test_a_server_judges_hostile_and_honest_programs_side_by_side(sandbox: Sandbox) -> None:
    honest = "print(int(input()) ** 2)"
    hostile = [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "x = []\nwhile True: x.append(bytearray(1 << 22))",
        "while True: print('x' * 99999)",
        "import time; time.sleep(600)",
        "raise SystemExit(0)",
    ]
    texts = [text for bad in hostile for text in (honest, bad)]
    tests = {"tests": [{"input": "3", "output": "9"}]}
    samples = [Sample(id=str(i), group="g", prompt="", completion=t, metadata=tests) for i, t in enumerate(texts)]
    before = descendants()
    server = RewardServer(
        CodeTests(deadline_s=5.0), name="code", batch_size=1, concurrency=4, deadline_s=60.0, rng=random.Random(0)
    )
    scores = await server.score(samples)
    server.close()
    assert server.stats()["failed_calls"] == 0
    assert [score.value for score in scores[::2]] == [1.0] * 5
    # One that has no processor for half its deadline, on a busy machine, is no verdict; none is right.
    allowed = {(ScoreStatus.OK, 0.0), (ScoreStatus.TIMEOUT, None)}
    assert {(score.status, score.value) for score in scores[1::2]} <= allowed
    assert descendants() == before

"""A Ray cluster as an operator starts it: `ray start --head`, dashboard and job agent on, with a token of its own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Head", "ray_head"]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0
PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
    "metrics-export-port", "ray-client-server-port", "node-manager-port", "object-manager-port",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """What somebody must know to use the cluster."""

    url: str
    token: str
    environment: dict[str, str]
    """With the path of the token's file; the token itself is on no command line."""
    folder: Path
    """Ray's files."""
    log: Path


@contextmanager
def ray_head(**variables: str) -> Iterator[Head]:
    """Start a cluster of one node; end its processes, and no others, afterwards.

    Args:
      variables: more of the environment of the node, for instance the keys of endpoints.
    """
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as short:
        folder, log = Path(short), Path(short) / "start.txt"
        (folder / "token").write_text(token := secrets.token_hex(32))
        (folder / "token").chmod(0o600)
        ports = free_ports(len(PORTS))
        mine = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--dashboard-host=127.0.0.1",
            f"--temp-dir={folder}", "--num-cpus=8", f"--object-store-memory={256 << 20}", "--include-dashboard=true",
            *(f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)),
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=short, env=mine | variables, stdout=output, stderr=output, start_new_session=True
            )
        with ExitStack() as stack:
            stack.callback(end, process)
            head = Head(f"http://127.0.0.1:{ports[1]}", token, mine, folder, log)
            wait_for_jobs(head, process)
            yield head


def wait_for_jobs(head: Head, process: subprocess.Popen[bytes]) -> None:
    """Wait until the job server answers."""
    ends = time.monotonic() + DEADLINE_S
    request = urllib.request.Request(f"{head.url}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10.0):
                return
        except OSError as error:
            assert process.poll() is None, f"`ray start` ended:\n{head.log.read_text()[-4000:]}"
            assert time.monotonic() < ends, f"{head.url} did not answer: {error}\n{head.log.read_text()[-4000:]}"
            time.sleep(0.5)


def end(process: subprocess.Popen[bytes]) -> None:
    """End `ray start --block`, which ends its node; then whatever is left of its session."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of this host that nobody uses, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]

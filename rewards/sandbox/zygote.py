"""The zygote: a warm interpreter that forks one confined process per program, and reaps it.

    owner -> zygote   request: {"cpu_s"} with the descriptors of the program (input, output, errors, item, reply)
    zygote -> owner   {} with a descriptor of the program's process; or {"refused"}: it could not be confined
    zygote -> owner   {"code", "used_s", "starved_s"}: it has ended, and nothing of it is left

When the owner's end of the connection closes, the zygote kills its program and ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from rewards.sandbox.confinement import Confinement
from rewards.sandbox.limits import Limits
from rewards.sandbox.play import play
from rewards.sandbox.system import prctl

__all__ = ["main"]

DESCRIPTORS = 5
_PR_SET_CHILD_SUBREAPER = 36


def main(descriptor: int, order: str) -> None:
    """Serve programs until the owner closes its end.

    Args:
      descriptor: of the connection to the owner.
      order: JSON of the fields of `program.Order`.
    """
    connection = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the terminal is for the owner
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        zygote = Zygote(connection, **json.loads(order))
    except Exception as error:  # top of the process: the owner is told, and refuses to go on
        _send(connection, {"refused": f"{type(error).__name__}: {error}"})
        return
    _send(connection, {"ready": os.getpid()})
    gc.freeze()  # what is shared with the programs stays shared
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the owner is gone
        while zygote.serve():
            pass


class Zygote:
    """Forks programs that call one function each."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        target: str,
        imports: list[str],
        readable: list[str],
        limits: dict[str, int],
        scratch_bytes: int,
    ) -> None:
        self._connection = connection
        for module in imports:
            importlib.import_module(module)
        module, _, name = target.partition(":")
        self._function: Callable[[dict[str, Any]], Any] = getattr(importlib.import_module(module), name)
        self._confinement = Confinement(Limits(**limits), readable, scratch_bytes)

    def serve(self) -> bool:
        """Run one program; return False once the owner has closed its end."""
        message, descriptors, _, _ = socket.recv_fds(self._connection, 4096, DESCRIPTORS)
        if not message:
            return False
        self._confinement.count_tasks()
        gate, confined = os.pipe()
        cpu_s, parent = json.loads(message)["cpu_s"], os.getpid()
        program = os.fork()
        if program == 0:
            play(self._function, descriptors, confined, lambda: self._confinement.apply(cpu_s, parent))
        for number in (*descriptors, confined):
            os.close(number)
        with open(gate, encoding="utf-8") as refusals:
            refused = refusals.read()
        if refused:
            os.waitpid(program, 0)
            _send(self._connection, {"refused": refused})
            return True
        return self._watch(program)

    def _watch(self, program: int) -> bool:
        process = os.pidfd_open(program)
        socket.send_fds(self._connection, [b"{}"], [process])
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        owned = self._connection.fileno() not in dict(poll.poll())
        starved_s = _starved_s(program)
        if not owned:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)
        _, status, usage = os.wait4(program, 0)
        _end_children()
        used_s = usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        _send(self._connection, {"code": code, "used_s": used_s, "starved_s": starved_s})
        return owned


def _starved_s(program: int) -> float:
    """Return for how long the program's main thread was ready and had no processor, seconds."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{program}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1]) / 1e9
    return 0.0


def _end_children() -> None:
    """Kill and reap whatever a program has left; the policy lets it leave nothing."""
    with contextlib.suppress(ChildProcessError):
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message).encode())

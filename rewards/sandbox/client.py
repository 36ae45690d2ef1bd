"""The outside of one zygote: runs programs in it, with a deadline and a cap on what they write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.sandbox import bubblewrap, confinement
from rewards.sandbox.descriptors import pipe, sealed
from rewards.sandbox.program import End, Order, Outcome, SandboxError

__all__ = ["ZygoteClient"]

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 60.0
END_DEADLINE_S = 10.0
"""From SIGKILL to the zygote's word that nothing is left."""
_BOOT = [sys.executable, "-P", "-s", "-B", "-X", "utf8", str(Path(__file__).with_name("boot.py")), str(ROOT)]
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""All of it. The order of a set decides no reward, and linear algebra reserves memory for no threads."""
_KEPT_OF_ERRORS = 2000
_CHUNK = 1 << 16


class ZygoteClient:
    """One zygote process, and the connection to it."""

    def __init__(self, order: Order) -> None:
        """Start it; returns before it is ready.

        Raises:
          SandboxError: this machine cannot confine programs.
        """
        if refusal := confinement.refusal() or (order.scratch_bytes and bubblewrap.refusal()):
            raise SandboxError(refusal)
        self._order = order
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                _command(order, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_ENVIRONMENT | ({"TMPDIR": confinement.SCRATCH} if order.scratch_bytes else {}),
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._ready_until: float | None = time.monotonic() + START_DEADLINE_S
        # Also runs when the interpreter exits, so that no zygote outlives its owner.
        self.close = weakref.finalize(self, _end, self._process, self._connection)

    def wait_ready(self) -> None:
        """Return once it can fork programs.

        Raises:
          SandboxError: it never will.
        """
        if self._ready_until is not None:
            self._receive(self._ready_until)
            self._ready_until = None

    def run(self, item: Mapping[str, Any], deadline_s: float, text: bytes = b"") -> Outcome:
        """Return what became of a new process that calls the target with `item`.

        Args:
          deadline_s: of wall time, after which it is killed; processor time is limited to as much.
          text: what the program reads from its standard input.

        Raises:
          SandboxError: there is no outcome, for a reason that is not the program's; the zygote is of no further use.
        """
        self.wait_ready()
        until = time.monotonic() + deadline_s
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as given:
            ours, theirs = zip(*(pipe(kept, given) for _ in range(3)), strict=True)
            content = [sealed(given, text), sealed(given, json.dumps(item).encode())]
            request = json.dumps({"cpu_s": math.ceil(deadline_s)}).encode()
            try:
                # In the order of `play`: input, output, errors, item, reply.
                socket.send_fds(self._connection, [request], [content[0], *theirs[:2], content[1], theirs[2]])
            except OSError as error:
                raise self._lost() from error
            given.close()  # the program's end is then the end of what it writes
            process = self._receive(until + END_DEADLINE_S)["process"]
            kept.callback(os.close, process)
            return self._watch(process, ours, until)

    def _watch(self, process: int, pipes: Sequence[int], until: float) -> Outcome:
        """Collect what the program writes until it has ended; kill it if that takes too long, or too much."""
        written = {pipe: bytearray() for pipe in pipes}
        end = self._collect(written, {*pipes, self._connection.fileno()}, until)
        if end is not End.EXITED:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                signal.pidfd_send_signal(process, signal.SIGKILL)
        status = self._receive(time.monotonic() + END_DEADLINE_S)
        if end is End.DEADLINE and status["code"] != -signal.SIGKILL:  # it had ended by itself: we were late
            end = self._collect(written, {*pipes}, time.monotonic() + END_DEADLINE_S)
        if status["code"] == -signal.SIGXCPU:
            end = End.DEADLINE
        output, errors, reply = (bytes(written[pipe]) for pipe in pipes)
        return Outcome(
            end=end,
            code=status["code"],
            output=output,
            errors=errors[-_KEPT_OF_ERRORS:].decode(errors="replace"),
            reply=_parsed(reply),
            used_s=status["used_s"],
            starved_s=status["starved_s"],
        )

    def _collect(self, written: Mapping[int, bytearray], awaited: set[int], until: float) -> End:
        """Read pipes until they are closed, and until whatever else is awaited has something to say."""
        poll = select.poll()
        for descriptor in awaited:
            poll.register(descriptor, select.POLLIN)
        while awaited:
            ready = poll.poll(_left_ms(until))
            if not ready or time.monotonic() >= until:  # one that never stops writing is always ready
                return End.DEADLINE
            for descriptor, _ in ready:
                chunk = os.read(descriptor, _CHUNK) if descriptor in written else b""
                if chunk:
                    written[descriptor].extend(chunk)
                else:
                    poll.unregister(descriptor)
                    awaited.discard(descriptor)
            if sum(map(len, written.values())) > self._order.limits.output_bytes:
                return End.FLOOD
        return End.EXITED

    def _receive(self, until: float) -> dict[str, Any]:
        """Return the zygote's next message; a descriptor that comes with it is its `process`."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if not poll.poll(_left_ms(until)):
            raise SandboxError(f"no answer from the sandbox (process {self._process.pid}); it was ended")
        try:
            text, descriptors, _, _ = socket.recv_fds(self._connection, _CHUNK, 1)
        except ConnectionResetError as error:
            raise self._lost() from error
        if not text:
            raise self._lost()
        message: dict[str, Any] = json.loads(text)
        if "refused" in message:
            raise SandboxError(f"the sandbox cannot be used: {message['refused']}")
        return {**message, **({"process": descriptors[0]} if descriptors else {})}

    def _lost(self) -> SandboxError:
        self.close()
        what = f"the sandbox (process {self._process.pid}) ended with status {self._process.returncode}"
        if self._order.scratch_bytes and self._ready_until is not None:
            what += " before it was ready; for a scratch folder this machine must let bubblewrap make user namespaces"
        return SandboxError(what)


def _command(order: Order, connection: int) -> list[str]:
    command = [*_BOOT, str(connection), json.dumps(dataclasses.asdict(order))]
    return bubblewrap.wrapped(command, order.readable, order.scratch_bytes) if order.scratch_bytes else command


def _left_ms(until: float) -> float:
    return max(0.0, until - time.monotonic()) * 1000


def _parsed(reply: bytes) -> Any:
    try:
        return json.loads(reply)
    except (ValueError, RecursionError):  # the program was killed, wrote something else, or nests too deep
        return None


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()

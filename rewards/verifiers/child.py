"""Killable child processes: a function that may hang, with a deadline per item.

A child is a fresh interpreter that speaks JSON lines over pipes; one that misses its deadline is
killed, and the next item gets a new one. Children are borrowed from a pool, so that every calling
thread has one of its own.

It serves many items, which is fast and keeps its caches: right for trusted code that hostile text may hang. A
confined child is under the policy of `rewards.sandbox` as well, and sees nothing of our environment; what
runs the text itself belongs into the sandbox, where every item has a process of its own.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buffers.scores import Score, ScoreStatus
from rewards.sandbox.probe import require_containment
from rewards.sandbox.program import SandboxError

__all__ = ["Child", "ChildDied", "ChildPool"]

START_DEADLINE_S = 60.0
"""Importing a computer algebra system takes 1 to 2 s, on a busy machine many times that."""
MEMORY_BYTES = 4 << 30
"""Address space of one child."""
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Linear algebra reserves address space per thread, which the memory limit would count."""
_PATH = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])


class ChildDied(Exception):
    """The child ended without an answer."""


class Child:
    """One child process that serves `target`, a "package.module:function" of dict to dict."""

    def __init__(self, target: str, memory_bytes: int = MEMORY_BYTES, *, confined: bool = False) -> None:
        self._target = target
        manners = "confined" if confined else "free"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rewards.verifiers.child_main", target, str(memory_bytes), manners],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**({} if confined else os.environ), **_SINGLE_THREADED, "PYTHONPATH": _PATH},
            bufsize=0,
            start_new_session=True,  # Ctrl-C on the terminal is for the parent
        )
        self._started = time.monotonic()
        self._unread = b""
        self._ready = False
        # Also runs when the interpreter exits, so that no child outlives its parent.
        self.close = weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Return once `target` is imported.

        Raises:
          TimeoutError: not within START_DEADLINE_S of the start.
          ChildDied: the import failed.
        """
        if not self._ready:
            self._read_line(self._started + START_DEADLINE_S)
            self._ready = True

    def ask(self, item: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Return the function's answer to `item`.

        Raises:
          TimeoutError: no answer in time; the child is of no further use.
          ChildDied: it crashed, was killed or ran out of memory.
        """
        self.wait_ready()
        until = time.monotonic() + deadline_s
        line = json.dumps({**item, "deadline_s": deadline_s}).encode() + b"\n"
        self._write(line, until)
        answer: dict[str, Any] = json.loads(self._read_line(until))
        return answer

    def _write(self, line: bytes, until: float) -> None:
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        while line:
            # At most PIPE_BUF bytes: a writable pipe takes them without blocking.
            self._await(descriptor, select.POLLOUT, until)
            try:
                line = line[os.write(descriptor, line[: select.PIPE_BUF]) :]
            except BrokenPipeError as error:
                raise self._death() from error

    def _read_line(self, until: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            self._await(descriptor, select.POLLIN, until)
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._death()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _await(self, descriptor: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError(f"no answer from {self._target} (pid {self.pid})")

    def _death(self) -> ChildDied:
        self.close()
        return ChildDied(f"the child process of {self._target} ended with status {self._process.returncode}")


class ChildPool:
    """Idle children of one target; grows to the number of threads that ask at the same time."""

    def __init__(self, target: str, memory_bytes: int = MEMORY_BYTES, *, confined: bool = False) -> None:
        self._target = target
        self._memory_bytes = memory_bytes
        self._confined = confined
        self._idle: list[Child] = []
        self._lock = threading.Lock()

    def warm(self, count: int) -> None:
        """Start children until `count` are idle, and return once all are ready.

        Raises:
          TimeoutError, ChildDied: as `Child.wait_ready`.
          SandboxError: this machine cannot confine them.
        """
        children = [self._child() for _ in range(count - len(self._idle))]
        for child in children:  # they import side by side, whoever is waited for
            child.wait_ready()
        with self._lock:
            self._idle += children

    def judge(self, item: Mapping[str, Any], deadline_s: float) -> Score:
        """Return the verdict of the target on one item.

        The target answers `{"value": x}`, `{"abstained": why}` or `{"error": why}`. A child that
        hangs is killed (status timeout); one that dies is replaced (status error).
        """
        with self._lock:
            child = self._idle.pop() if self._idle else None
        try:
            child = child or self._child()
            score = _score(child.ask(item, deadline_s))
        except TimeoutError as error:
            if child is not None:
                child.close()
            return Score.invalid(ScoreStatus.TIMEOUT, f"{error} within {deadline_s:g} s; it was killed")
        except (ChildDied, SandboxError) as error:
            return Score.invalid(ScoreStatus.ERROR, str(error))
        with self._lock:
            self._idle.append(child)
        return score

    def _child(self) -> Child:
        if self._confined:
            require_containment()
        return Child(self._target, self._memory_bytes, confined=self._confined)

    def close(self) -> None:
        """End the idle children."""
        with self._lock:
            children, self._idle = self._idle, []
        for child in children:
            child.close()


def _score(answer: Mapping[str, Any]) -> Score:
    if "value" in answer:
        return Score(value=float(answer["value"]))
    if "abstained" in answer:
        return Score.invalid(ScoreStatus.ABSTAINED, answer["abstained"])
    return Score.invalid(ScoreStatus.ERROR, answer["error"])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()

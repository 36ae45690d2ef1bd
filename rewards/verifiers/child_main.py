"""The child's side of `rewards.verifiers.child`: reads items, answers verdicts, one JSON line each.

Run as `python -m rewards.verifiers.child_main package.module:function MEMORY_BYTES free|confined`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from rewards.sandbox.confinement import Confinement
from rewards.sandbox.limits import Limits

__all__ = ["serve"]

ORPHAN_GRACE_S = 1.0
"""A child that overruns its item's deadline by this much has lost its parent, and ends by itself."""


def main(target: str, memory_bytes: int, manners: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    # Whatever a library prints must not mix with the replies.
    os.dup2(2, 1)
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    if manners == "confined":
        confinement = Confinement(Limits(memory_bytes=memory_bytes))
        confinement.count_tasks()
        confinement.apply()
    replies.write("ready\n")
    serve(function, sys.stdin, replies)


def serve(function: Callable[[dict[str, Any]], dict[str, Any]], items: TextIO, replies: TextIO) -> None:
    """Answer every line of `items` with one line in `replies`, until `items` ends."""
    for line in items:
        item = json.loads(line)
        # The kernel delivers this even while C code holds the interpreter; the parent kills earlier.
        signal.setitimer(signal.ITIMER_REAL, item["deadline_s"] + ORPHAN_GRACE_S)
        try:
            reply = function(item)
        except Exception as error:  # top of the process loop: the next item is another matter
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

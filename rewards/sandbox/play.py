"""What a forked process does: takes its descriptors, confines itself, and calls the function."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from fcntl import F_DUPFD, fcntl
from typing import Any, NoReturn

__all__ = ["play"]

ITEM, REPLY = 3, 4
"""Descriptors beside input, output and errors."""
_ABOVE = 32
"""Below it lie the numbers that a program finds its descriptors under."""
_HIGHEST = 1 << 16


def play(
    function: Callable[[dict[str, Any]], Any], descriptors: Sequence[int], confined: int, confine: Callable[[], None]
) -> NoReturn:
    """Call `function` with the item, write its answer to the reply, and end the process.

    Args:
      descriptors: input, output, errors, item, reply.
      confined: where to write why the process could not be confined; closed once it is.
      confine: applies the policy.
    """
    code = 1
    try:
        os.setsid()
        try:
            confine()
            _install(descriptors)
        except Exception as error:
            os.write(confined, f"{type(error).__name__}: {error}".encode())
            raise
        os.closerange(REPLY + 1, _HIGHEST)
        code = _perform(function)
    finally:  # whatever happens, this process never goes on as a zygote
        os._exit(code)


def _install(descriptors: Sequence[int]) -> None:
    """Move descriptors to 0, 1, 2, ..., by way of numbers that none of them has."""
    for number, above in enumerate([fcntl(d, F_DUPFD, _ABOVE) for d in descriptors]):
        os.dup2(above, number, inheritable=False)


def _perform(function: Callable[[dict[str, Any]], Any]) -> int:
    # The zygote's own streams belong to its descriptors, and hold its buffers.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    code = 0
    with open(ITEM, encoding="utf-8") as file:
        item = json.load(file)
    try:
        reply = function(item)
        threading._shutdown()  # type: ignore[attr-defined]  # as at the end of every program
        with open(REPLY, "w", encoding="utf-8") as file:
            json.dump(reply, file)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc(limit=-20)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code & 0xFF

"""The inside of the sandbox for Python: runs a source text, and calls a function of it."""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = ["run"]


def run(item: dict[str, Any]) -> Any:
    """Execute `item["source"]` as a program of its own; return what `item["call"]` of it returns.

    `call` is the name of a function, or of a method as `Class.method`, whose class is built without arguments;
    empty runs the program alone. `item["arguments"]` are passed by position.
    """
    program = types.ModuleType("__main__")
    sys.modules["__main__"] = program
    sys.argv = ["program.py"]
    exec(compile(item["source"], "program.py", "exec"), program.__dict__)
    if not item.get("call"):
        return None
    owner, _, name = item["call"].rpartition(".")
    function = getattr(vars(program)[owner](), name) if owner else vars(program)[name]
    return function(*item["arguments"])

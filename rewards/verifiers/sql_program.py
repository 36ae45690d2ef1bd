"""The inside of the sandbox for SQL: one query against one SQLite database, read-only."""

from __future__ import annotations

import sqlite3
from typing import Any

__all__ = ["run"]

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION}
_NAMES = "SELECT name FROM pragma_table_list UNION SELECT c.name FROM pragma_table_list t, pragma_table_info(t.name) c"


def run(item: dict[str, Any]) -> dict[str, Any]:
    """Answer `item["query"]` with `{"rows": [...], "names": [...]}`, or `{"error": why}` if SQLite refuses it.

    The database is the file `item["path"]`, or what the script `item["script"]` builds in memory; `names` are those
    of its tables and columns.
    """
    if path := item.get("path"):
        # Immutable: no locks, so that nothing needs to be written beside the file.
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    else:
        connection = sqlite3.connect(":memory:")
        connection.executescript(item["script"])
    connection.execute("PRAGMA temp_store = MEMORY")
    names = [name for (name,) in connection.execute(_NAMES)]
    connection.set_authorizer(_authorise)
    try:
        answer = connection.execute(item["query"])
        if answer.description is None:
            return {"error": "it asks for nothing", "names": names}
        rows = [list(map(_plain, row)) for row in answer]
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:300], "names": names}
    return {"rows": rows, "names": names}


def _authorise(action: int, _first: str | None, function: str | None, *_rest: str | None) -> int:
    allowed = action in _READING and function != "load_extension"
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _plain(value: Any) -> Any:
    return {"blob": value.hex()} if isinstance(value, bytes) else value

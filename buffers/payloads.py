"""Payload messages held in memory: one Arrow table per message, freed when its last row is.

Rows are handed out with `take`, never as slices: a sliced batch ships its whole parent.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from buffers.groups import Row

__all__ = ["PayloadStore"]


class PayloadStore:
    """Tables by message number, with a count of the rows still needed."""

    def __init__(self) -> None:
        self._tables: dict[int, pa.Table] = {}
        self._needed: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._next = 0
        self.held_bytes = 0

    def put(self, table: pa.Table) -> int:
        """Keep a message; return its number."""
        message = self._next
        self._next += 1
        self._tables[message] = table
        self._needed[message] = table.num_rows
        self._sizes[message] = table.get_total_buffer_size()  # `nbytes` takes 25 times as long, of so many columns
        self.held_bytes += self._sizes[message]
        return message

    def release(self, rows: Sequence[Row]) -> None:
        """Declare rows unneeded."""
        for row in rows:
            self._needed[row.message] -= 1
            if self._needed[row.message] == 0:
                self.held_bytes -= self._sizes.pop(row.message)
                del self._tables[row.message], self._needed[row.message]

    def gather(self, rows: Sequence[Row], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows as one table, in the order given; None takes all columns."""
        by_message: dict[int, list[int]] = {}
        for position, row in enumerate(rows):
            by_message.setdefault(row.message, []).append(position)
        parts, positions = [], []
        for message, where in by_message.items():
            table, wanted = self._tables[message], [rows[p].index for p in where]
            table = table if columns is None else table.select(columns)
            # Payloads are megabytes: what is wanted as it is is not copied.
            parts.append(table if wanted == list(range(table.num_rows)) else table.take(wanted))
            positions += where
        gathered = pa.concat_tables(parts)
        if positions != sorted(positions):
            inverse = [0] * len(positions)
            for at, position in enumerate(positions):
                inverse[position] = at
            gathered = gathered.take(inverse)
        return gathered.combine_chunks()

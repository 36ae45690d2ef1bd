"""Arrow tables as bytes: what is written to files, and what crosses process boundaries."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["from_ipc", "to_ipc"]

LARGE = 1 << 20
"""Bytes from which on a table is measured first: a sink that grows copies what it holds again and again."""


def to_ipc(table: pa.Table, room: int = 0) -> pa.Buffer:
    """Return a table as an IPC stream of one batch, behind `room` zeros; a slice leaves its parent behind."""
    whole = table.combine_chunks()
    if whole.get_total_buffer_size() < LARGE:
        growing = pa.BufferOutputStream()
        _write(whole, room, growing)
        return growing.getvalue()
    measured = pa.MockOutputStream()
    _write(whole, room, measured)
    buffer = pa.allocate_buffer(measured.size())
    _write(whole, room, pa.FixedSizeBufferWriter(buffer))
    return buffer


def from_ipc(data: pa.Buffer) -> pa.Table:
    """Return the table of an IPC stream; it shares the memory of `data`."""
    return pa.ipc.open_stream(data).read_all()


def _write(table: pa.Table, room: int, sink: pa.NativeFile) -> None:
    sink.write(bytes(room))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

"""Frames: Arrow tables one after the other in an append-only file.

    magic "HRS1" | payload bytes, uint32 | xxh3_64 of the payload | xxh3_64 of the 16 bytes before | payload

The payload is an Arrow IPC stream of one table. The header has a checksum of its own, so that a wrong
length cannot pass for the end of the file. All parts are multiples of 8 bytes, as Arrow's buffers ask.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa
import xxhash

from buffers.ipc import from_ipc, to_ipc
from configs.errors import Corruption

__all__ = ["decode", "encode"]

MAGIC = b"HRS1"
HEADER = struct.Struct("<4sIQ")
CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = HEADER.size + CHECKSUM.size
SECTOR_BYTES = 512  # what a disk writes whole or not at all


def encode(table: pa.Table) -> memoryview:
    """Return the frame of a table."""
    frame = memoryview(to_ipc(table, HEADER_BYTES)).cast("B")
    payload = frame[HEADER_BYTES:]
    header = HEADER.pack(MAGIC, len(payload), xxhash.xxh3_64_intdigest(payload))
    frame[:HEADER_BYTES] = header + CHECKSUM.pack(xxhash.xxh3_64_intdigest(header))
    return frame


def decode(data: bytes | pa.Buffer, path: Path, *, may_be_torn: bool) -> list[pa.Table]:
    """Return the tables of a file's bytes, in order.

    Args:
      path: named by errors.
      may_be_torn: the file is the one that a crash can have cut short, so an unfinished last frame is
        no error; it was never acknowledged.

    Raises:
      Corruption: bytes that were once whole are damaged.
    """
    tables, offset, view = [], 0, memoryview(data).cast("B")
    while offset < len(view):
        payload = _payload(view, offset)
        if payload is None:
            if may_be_torn and _is_torn(bytes(view), offset):
                break
            raise Corruption(
                f"{path}: the frame at byte {offset} fails its checksum; restore the file from a copy, or resume the "
                "run from a checkpoint in a new folder"
            )
        tables.append(from_ipc(pa.py_buffer(payload)))
        offset += HEADER_BYTES + len(payload)
    return tables


def _payload_bytes(view: memoryview, offset: int) -> int | None:
    """Return the length that the header at `offset` states, or None without a whole, sound header."""
    if len(view) - offset < HEADER_BYTES:
        return None
    header = view[offset : offset + HEADER.size]
    (checksum,) = CHECKSUM.unpack_from(view, offset + HEADER.size)
    magic, length, _ = HEADER.unpack(header)
    return int(length) if magic == MAGIC and xxhash.xxh3_64_intdigest(header) == checksum else None


def _payload(view: memoryview, offset: int) -> memoryview | None:
    """Return the payload of the frame at `offset`, or None where no whole, sound frame starts."""
    length = _payload_bytes(view, offset)
    if length is None:
        return None
    start = offset + HEADER_BYTES
    payload = view[start : start + length]
    _, _, checksum = HEADER.unpack_from(view, offset)
    return payload if len(payload) == length and xxhash.xxh3_64_intdigest(payload) == checksum else None


def _is_torn(data: bytes, offset: int) -> bool:
    """Tell an unfinished last write from damage to finished ones.

    An unfinished write is short, or some of its sectors read as zeros; and no sound frame follows it.
    """
    view, found = memoryview(data), data.find(MAGIC, offset + 1)
    while found >= 0:
        if _payload(view, found) is not None:
            return False
        found = data.find(MAGIC, found + 1)
    return _is_short(view, offset) or _has_empty_sector(data, offset)


def _is_short(view: memoryview, offset: int) -> bool:
    rest = len(view) - offset
    if rest < HEADER_BYTES:
        return MAGIC.startswith(bytes(view[offset : offset + len(MAGIC)]))
    length = _payload_bytes(view, offset)
    return length is not None and rest < HEADER_BYTES + length


def _has_empty_sector(data: bytes, offset: int) -> bool:
    sectors = range(offset - offset % SECTOR_BYTES, len(data), SECTOR_BYTES)
    return any(not any(data[max(start, offset) : start + SECTOR_BYTES]) for start in sectors)

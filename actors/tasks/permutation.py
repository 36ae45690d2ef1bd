"""A keyed permutation of range(size) in constant memory: element k without elements 0..k-1.

Six Feistel rounds over the smallest range of bits that holds `size`; values beyond `size` are
enciphered again until they fall inside (cycle walking), at most two rounds of it on average.
Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, methods 2 and 3.
"""

from __future__ import annotations

import xxhash

__all__ = ["permute"]

ROUNDS = 6


def permute(index: int, size: int, key: int) -> int:
    """Return where `index` goes; for a fixed key a bijection of range(size).

    Args:
      index: in [0, size).
      key: 64 bits; each key gives another permutation.

    Raises:
      ValueError: `index` is out of range.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} is out of range({size})")
    # At least two bits, so that both halves of the network exist.
    bits = max(2, (size - 1).bit_length())
    value = _encipher(index, bits, key)
    while value >= size:
        value = _encipher(value, bits, key)
    return value


def _encipher(value: int, bits: int, key: int) -> int:
    low = bits // 2
    high = bits - low
    left, right = value >> low, value & ((1 << low) - 1)
    for turn in range(0, ROUNDS, 2):
        # The halves differ by one bit in width when `bits` is odd, so each keeps its own mask.
        left ^= _mix(right, key, turn) & ((1 << high) - 1)
        right ^= _mix(left, key, turn + 1) & ((1 << low) - 1)
    return left << low | right


def _mix(half: int, key: int, turn: int) -> int:
    return xxhash.xxh3_64_intdigest(half.to_bytes(8, "little"), seed=(key + turn) & 0xFFFFFFFFFFFFFFFF)

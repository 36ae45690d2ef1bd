"""How samples become calls: what must be scored together is never split."""

from __future__ import annotations

from collections.abc import Sequence

from buffers.scores import Sample

__all__ = ["SCOPES", "calls", "units"]

SCOPES = ("sample", "group", "pair", "batch")
"""What a component scores together. The members of a pair share their `group`."""


def units(samples: Sequence[Sample], scope: str) -> list[list[int]]:
    """Return the positions of the samples that belong together, in order of first appearance."""
    if scope == "sample":
        return [[position] for position in range(len(samples))]
    if scope == "batch":
        return [list(range(len(samples)))] if samples else []
    groups: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(position)
    return list(groups.values())


def calls(together: Sequence[list[int]], batch_size: int) -> list[list[list[int]]]:
    """Pack units into calls of at most `batch_size` samples; a larger unit is a call of its own."""
    packed: list[list[list[int]]] = []
    room = 0
    for unit in together:
        if len(unit) > room:
            packed.append([])
            room = batch_size
        packed[-1].append(unit)
        room -= len(unit)
    return packed

"""How samples become calls: what must be scored together is never split."""

from __future__ import annotations

from collections.abc import Sequence

from buffers.scores import Sample

__all__ = ["PAIR", "SCOPES", "calls", "units"]

SCOPES = ("sample", "group", "pair", "batch")
"""What a component scores together. The two of a pair share their `group`, and are alone in a call."""
PAIR = 2


def units(samples: Sequence[Sample], scope: str) -> list[list[int]]:
    """Return the positions of the samples that belong together, in order of first appearance.

    Pairs are formed in the order of ids, whoever arrived first; of an odd number the last one meets the first
    one again, whose place is then in two pairs: the score that counts is that of the earlier one. Who is alone in
    a group has nobody to meet: a unit of one.
    """
    if scope == "sample":
        return [[position] for position in range(len(samples))]
    if scope == "batch":
        return [list(range(len(samples)))] if samples else []
    groups: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(position)
    if scope == "pair":
        return [pair for members in groups.values() for pair in _pairs(sorted(members, key=lambda p: samples[p].id))]
    return list(groups.values())


def _pairs(members: Sequence[int]) -> list[list[int]]:
    pairs = [list(members[i : i + PAIR]) for i in range(0, len(members), PAIR)]
    if len(pairs) > 1 and len(pairs[-1]) < PAIR:
        pairs[-1].append(members[0])
    return pairs


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

"""The cheapest way to pair things."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["assignment"]


def assignment(costs: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) whose summed cost is least: as many as there are rows, or columns if fewer.

    Args:
      costs: [R, C] finite.

    Source: the Hungarian method with potentials (Kuhn 1955; Jonker and Volgenant 1987), O(R^2 C) for R <= C.
    """
    if not costs or not costs[0]:
        return []
    if len(costs) > len(costs[0]):
        return sorted((row, column) for column, row in assignment(list(zip(*costs, strict=True))))
    columns = len(costs[0])
    owner = [-1] * (columns + 1)  # row of each column; the last one is where each new row starts
    row_price, column_price = [0.0] * len(costs), [0.0] * (columns + 1)
    for row in range(len(costs)):
        owner[columns] = row
        _augment(costs, owner, row_price, column_price)
    return sorted((row, column) for column, row in enumerate(owner[:columns]) if row >= 0)


def _augment(
    costs: Sequence[Sequence[float]], owner: list[int], row_price: list[float], column_price: list[float]
) -> None:
    """Give the row at the last place of `owner` a column, moving others along the cheapest path."""
    last = len(owner) - 1
    slack, came_from = [math.inf] * last, [last] * last
    here, reached = last, [last]
    while owner[here] >= 0:
        row = owner[here]
        free = [column for column in range(last) if column not in reached]
        for column in free:
            reduced = costs[row][column] - row_price[row] - column_price[column]
            if reduced < slack[column]:
                slack[column], came_from[column] = reduced, here
        here = min(free, key=slack.__getitem__)
        step = slack[here]
        for column in reached:
            row_price[owner[column]] += step
            column_price[column] -= step
        for column in free:
            slack[column] -= step
        reached.append(here)
    while here != last:
        owner[here], here = owner[came_from[here]], came_from[here]

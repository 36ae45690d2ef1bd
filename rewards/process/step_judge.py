"""Scores of steps from a step head: of each alone, or averaged with that of the step and the one before it as one.

Dimensions: n samples, K steps of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from configs.errors import DataError
from rewards.process.hosted import ROWS
from rewards.process.merging import fused, merged_steps
from rewards.process.step_head import StepHead, marked

__all__ = ["StepJudge", "mark_of"]

Cut = tuple[Sequence[int], Sequence[int]]
"""Tokens of a sample, and [K] where its steps end; K >= 1."""
Request = tuple[list[int], list[int]]
"""Tokens, and the positions at which steps are judged."""
Values = list[list[float]]


class StepJudge:
    """A step head, and how it is asked; threads share it."""

    def __init__(self, head: StepHead, *, mark: int | None, difference: bool) -> None:
        """Ask `head` behind each step, at a `mark` or where the step ends.

        Args:
          difference: P(right) - P(wrong), -1 to 1; else P(right), 0 to 1.
        """
        self._head, self._mark, self._difference = head, mark, difference

    def scores(self, samples: Sequence[Cut], *, merged: bool = False) -> Values:
        """Return [n][K].

        Args:
          merged: average those of steps with those of merged steps; two are one only where a mark parts the others.
        """
        fine = self._judged([self._request(tokens, ends, ends) for tokens, ends in samples])
        if not merged:
            return fine
        requests = [self._request(tokens, m, m[-1:]) for tokens, ends in samples for m in merged_steps(ends)]
        coarse = iter(self._judged(requests))
        return [fused(own, [x for [x] in islice(coarse, len(own) - 1)]) for own in fine]

    def _request(self, tokens: Sequence[int], ends: Sequence[int], judged: Sequence[int]) -> Request:
        """Return a sample cut behind its last step; its last `len(judged)` steps are asked for."""
        cut, places = marked(tokens, ends, self._mark)
        return cut, places[-len(judged) :]

    def _judged(self, requests: Sequence[Request]) -> Values:
        """Return the scores of the positions of each request."""
        found: Values = []
        for at in range(0, len(requests), ROWS):
            tokens, places = zip(*requests[at : at + ROWS], strict=True)
            with torch.no_grad():
                right = self._head(tokens, places).softmax(-1)[:, 1].double()
            values = iter((2 * right - 1 if self._difference else right).tolist())
            found += [list(islice(values, len(where))) for where in places]
        return found


def mark_of(tokenizer: Any, text: str, place: str) -> int:
    """Return the token of a mark.

    Args:
      place: the setting's key.

    Raises:
      DataError: the text is not one token.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise DataError(f"{place} is {text!r}, {len(ids)} tokens of the model; name one token")
    return int(ids[0])

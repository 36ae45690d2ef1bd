"""Novelty by counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.intrinsic.base import IntrinsicModel

__all__ = ["Counts"]


@dataclass(kw_only=True)
class Counts(IntrinsicModel):
    """1 for every caption; divided by N^k, as every intrinsic reward is, that is a count bonus.

    With exploration.count_exponent=0.5 and count_scope=lifetime this is the count bonus of MBIE-EB over
    captions; with the default exponent 3 and count_scope=episode it pays for what is new in the episode.

    Source: MBIE-EB, Strehl and Littman 2008, eq. 3; the count decay of arXiv:2410.23022.
    """

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        return np.ones(len(inputs))

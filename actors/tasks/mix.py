"""Several sources as one, in fixed proportions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.tasks import build_source
from actors.tasks.source import TaskSource, settings_digest
from buffers.trajectory import Task
from configs.errors import ConfigError

__all__ = ["Mix"]

# Tasks per repetition of the pattern: shares are exact to a tenth of a percent.
PATTERN = 1000
# Longer epochs are not counted beforehand, since that reads every task.
LONGEST_LISTED = 1_000_000


class Mix:
    """Interleaves sources by weight; index i belongs to the same source in every run.

    A pattern of 1000 places gives each source its share of places; a source is read in its own
    order and begins again when it is used up.
    """

    def __init__(
        self, sources: Sequence[dict[str, Any]], seed: int, where: str = "tasks.train", name: str = "mix"
    ) -> None:
        """Build the sources; each section is a source's section plus an optional `weight` (default 1).

        Raises:
          ConfigError: no source, a weight that is not positive, or a share below 1/1000.
        """
        if not sources:
            raise ConfigError(f"{where}.sources is empty; it must hold at least one source; add `- target: ...`")
        sections = [dict(section) for section in sources]
        weights = [section.pop("weight", 1.0) for section in sections]
        for at, weight in enumerate(weights):
            if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ConfigError(
                    f"{where}.sources[{at}].weight is {weight!r}; it must be > 0; or leave the source out"
                )
        self._sources: list[TaskSource] = [
            build_source(section, seed, f"{where}.sources[{at}]") for at, section in enumerate(sections)
        ]
        self.name = name
        self.fingerprint = settings_digest({"weights": weights, "sources": [s.fingerprint for s in self._sources]})
        self._pattern = _pattern(weights, seed)
        self._counts = np.bincount(self._pattern, minlength=len(weights))
        self._ranks = _ranks(self._pattern)
        if not self._counts.all():
            at = int(np.argmin(self._counts))
            raise ConfigError(
                f"{where}.sources[{at}].weight is {weights[at]}; a share must be >= 1/{PATTERN}; raise it"
            )
        self.listed = all(source.listed for source in self._sources) and len(self) <= LONGEST_LISTED

    def __len__(self) -> int:
        """Tasks until every source has been read through at least once."""
        rounds = max(math.ceil(len(s) / n) for s, n in zip(self._sources, self._counts, strict=True))
        return rounds * PATTERN

    def task(self, index: int) -> Task:
        """Return task `index`, under the name and index of the source it comes from."""
        if not 0 <= index < len(self):
            raise IndexError(f"task {index} of {self.name}; it has {len(self)}")
        round_, place = divmod(index, PATTERN)
        which = self._pattern[place]
        source = self._sources[which]
        return source.task(int(round_ * self._counts[which] + self._ranks[place]) % len(source))


def _pattern(weights: Sequence[float], seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return [PATTERN] the source of each place: shares rounded by largest remainder, then shuffled."""
    shares = np.array(weights, np.float64) / sum(weights) * PATTERN
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: PATTERN - counts.sum()]] += 1
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(weights)), counts))


def _ranks(pattern: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return [PATTERN] how many earlier places belong to the same source."""
    ranks = np.empty_like(pattern)
    for which in np.unique(pattern):
        places = np.flatnonzero(pattern == which)
        ranks[places] = np.arange(len(places))
    return ranks

"""How the scores of each reward component went: counted on their way to the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from buffers.scores import Score, ScoreStatus

__all__ = ["ScoreTally"]


class ScoreLog(Protocol):
    """Where score attempts are stored."""

    def record_scores(self, scores: Sequence[tuple[str, Score]], update_version: int | None = None) -> Future[None]: ...


class ScoreTally:
    """A score log that counts; also what never is in a batch, since samples without a valid score are left out."""

    def __init__(self, log: ScoreLog) -> None:
        self._log = log
        self._counts: Counter[tuple[str, ScoreStatus]] = Counter()

    def record_scores(self, scores: Sequence[tuple[str, Score]], update_version: int | None = None) -> Future[None]:
        """Count scores and pass them on."""
        self._counts.update((score.component, score.status) for _, score in scores)
        return self._log.record_scores(scores, update_version)

    def take(self) -> dict[str, float]:
        """Return metrics of the scores since the last call: shares that failed or abstained, of each component."""
        counts, self._counts = self._counts, Counter()
        shares: dict[str, float] = {}
        for name in sorted({component for component, _ in counts}):
            ok, timeout, error, abstained = (counts[name, status] for status in ScoreStatus)
            total = ok + timeout + error + abstained
            shares[f"rewards/{name}/failed"] = (timeout + error) / total
            shares[f"rewards/{name}/abstained"] = abstained / total
        return shares

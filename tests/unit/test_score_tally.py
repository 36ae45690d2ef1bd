"""Shares of scores that failed or abstained, counted on their way to the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from buffers.score_tally import ScoreTally
from buffers.scores import Score, ScoreStatus


class Log:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int | None]] = []
        self.future: Future[None] = Future()

    def record_scores(self, scores: Sequence[tuple[str, Score]], update_version: int | None = None) -> Future[None]:
        self.calls.append((len(scores), update_version))
        return self.future


def scores(component: str, *statuses: str) -> list[tuple[str, Score]]:
    values = {status: 1.0 if status == "ok" else None for status in statuses}
    return [
        (f"id{i}", Score(component=component, status=ScoreStatus(status), value=values[status]))
        for i, status in enumerate(statuses)
    ]


def test_shares_are_those_since_the_last_call():
    log = Log()
    tally = ScoreTally(log)
    assert tally.take() == {}
    assert tally.record_scores(scores("a", "ok", "timeout", "error", "abstained"), 7) is log.future
    tally.record_scores([*scores("a", "ok"), *scores("b", "abstained")])
    assert tally.take() == {
        "rewards/a/failed": 0.4,
        "rewards/a/abstained": 0.2,
        "rewards/b/failed": 0.0,
        "rewards/b/abstained": 1.0,
    }
    assert tally.take() == {}, "what was not scored since has no share, not a good one"
    assert log.calls == [(4, 7), (2, None)]

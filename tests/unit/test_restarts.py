"""The budget of restarts: it runs out, it comes back, and pauses double meanwhile."""

from __future__ import annotations

import pytest

from actors.restarts import FIRST_S, LONGEST_S, RestartBudget


def test_a_budget_runs_out_and_pauses_double() -> None:
    budget = RestartBudget(3, refill_s=1e9)
    assert [budget.take(0.0) for _ in range(4)] == [
        pytest.approx(FIRST_S), pytest.approx(2 * FIRST_S), pytest.approx(4 * FIRST_S), None,
    ]  # fmt: skip
    assert budget.made == 3


def test_restarts_come_back_one_by_one() -> None:
    budget = RestartBudget(2, refill_s=10.0)
    assert budget.take(0.0) is not None and budget.take(0.0) is not None
    assert budget.take(9.9) is None, "not before a whole one is back"
    assert budget.take(10.0) is not None and budget.take(10.1) is None
    assert budget.used(100.0) == 0.0
    assert budget.take(100.0) == pytest.approx(FIRST_S), "an old fault makes nobody wait"


def test_rare_faults_never_end_a_run() -> None:
    budget = RestartBudget(1, refill_s=10.0)
    assert all(budget.take(10.5 * fault) is not None for fault in range(1000))
    assert budget.made == 1000


def test_pauses_have_an_end_and_no_restart_is_none() -> None:
    budget = RestartBudget(100, refill_s=1e9)
    assert max(budget.take(0.0) or 0.0 for _ in range(100)) == LONGEST_S
    assert RestartBudget(0, refill_s=1.0).take(50.0) is None

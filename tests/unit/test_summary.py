"""Figures of summary.json that are computed from sums."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.summary import staleness


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300))
def test_staleness_by_counts_is_that_of_the_list(ages: list[int]):
    ranked, found = sorted(ages), staleness(Counter(ages))
    assert found["mean"] == pytest.approx(statistics.fmean(ages))
    assert (found["p95"], found["max"]) == (ranked[min(len(ages) - 1, int(len(ages) * 0.95))], ranked[-1])


def test_without_trained_samples_nothing_was_stale():
    assert staleness({}) == {"mean": 0.0, "p95": 0.0, "max": 0}

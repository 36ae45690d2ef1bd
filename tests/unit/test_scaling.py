"""When pools grow and shrink by themselves: a table of cases, and what holds whatever the load."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from actors.scaling import Decision, Load, ScalingState, decide
from configs.errors import ConfigError
from configs.scaling import ScalingConfig

LATER = 1e6
ONE_TO_EIGHT = ScalingConfig(min=1, max=8, target_queue_s=1.0)


def load(queue_s: float, utilisation: float) -> Load:
    return Load(queue_s=queue_s, utilisation=utilisation)


@pytest.mark.parametrize(
    ("count", "seen", "after"),
    [
        (2, load(5.0, 1.0), 3),  # half more
        (1, load(5.0, 1.0), 2),  # at least one
        (6, load(5.0, 1.0), 8),  # not beyond the bound
        (8, load(5.0, 1.0), 8),
        (4, load(1.0, 1.0), 4),  # the target itself is fine
        (4, load(0.5, 0.1), 4),  # between the limits nothing happens
        (8, load(0.0, 0.3), 6),  # a quarter fewer
        (2, load(0.0, 0.1), 1),  # at least one fewer
        (1, load(0.0, 0.0), 1),
        (4, load(0.0, 0.7), 4),  # three would be busy for 93 % of their time
        (12, load(0.5, 0.5), 8),  # bounds first
        (0, load(0.5, 0.5), 1),
    ],
)
def test_a_decision_follows_from_load_and_size(count: int, seen: Load, after: int) -> None:
    _, decision = decide(ONE_TO_EIGHT, ScalingState(), seen, count, LATER)
    assert (decision.after if decision else count) == after
    assert decision is None or (decision.before == count and decision.time == LATER and decision.why)


@pytest.mark.parametrize(
    ("seen", "quiet_s", "happens"),
    [
        (load(5.0, 1.0), 29.0, False),
        (load(5.0, 1.0), 30.0, True),
        (load(0.0, 0.0), 119.0, False),
        (load(0.0, 0.0), 120.0, True),
    ],
)
def test_cool_downs_hold_after_any_change(seen: Load, quiet_s: float, happens: bool) -> None:
    state, _ = decide(ONE_TO_EIGHT, ScalingState(changed_at=100.0), seen, 4, 100.0 + quiet_s)
    assert (state.changed_at > 100.0) is happens


def test_without_bounds_nothing_scales_by_itself() -> None:
    for settings_ in (ScalingConfig(), ScalingConfig(min=3, max=3)):
        assert decide(settings_, ScalingState(), load(99.0, 1.0), 3, LATER)[1] is None


def test_a_size_that_was_too_small_is_gone_back_to_once_the_demand_has_fallen() -> None:
    state, up = decide(ONE_TO_EIGHT, ScalingState(), load(5.0, 0.6), 4, LATER)
    assert up is not None and up.after == 6
    assert decide(ONE_TO_EIGHT, state, load(0.0, 0.4), 6, 2 * LATER)[1].after == 5  # the same demand: 4 are too few
    assert decide(ONE_TO_EIGHT, state, load(0.0, 0.4), 5, 2 * LATER)[1] is None
    assert (
        decide(ONE_TO_EIGHT, state, load(0.0, 0.2), 5, 2 * LATER)[1].after == 4
    )  # the demand fell by more than a fifth


@pytest.mark.parametrize(
    "wrong", [{"min": 0}, {"max": 0}, {"min": 3, "max": 2}, {"up_factor": 1.0}, {"busy_share": 1.5}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="scaling"):
        ScalingConfig(**wrong)
    with pytest.raises(ConfigError, match=r"rollout.workers is 9.*\[1, 8\]"):
        ONE_TO_EIGHT.check_count("rollout.workers", 9)


DEMANDS = st.floats(0.0, 60.0, allow_subnormal=False)
"""Halves of the smallest numbers there are would be zero: a load that falls."""
configs = st.builds(
    lambda low, more, up, down, quiet, busy: ScalingConfig(
        min=low, max=low + more, up_factor=up, down_factor=down, quiet_share=quiet, busy_share=busy
    ),
    st.integers(1, 5), st.integers(0, 40), st.floats(1.01, 4.0), st.floats(0.05, 0.95), st.floats(0.01, 0.99),
    st.floats(0.05, 0.99),
)  # fmt: skip


def play(config: ScalingConfig, count: int, demand: float, queue_at_one: float, steepness: float) -> list[Decision]:
    """Have a constant load decide until nothing can change any more: more members, shorter waits."""
    state, decisions, now = ScalingState(), [], 0.0
    for _ in range(400):
        now += 1000.0
        seen = load(queue_at_one / count**steepness, min(1.0, demand / count))
        state, decision = decide(config, state, seen, count, now)
        if decision is not None:
            decisions.append(decision)
            count = decision.after
    return decisions


@settings(max_examples=100, deadline=None)
@given(configs, st.integers(1, 60), DEMANDS, st.floats(0.0, 100.0), st.floats(0.0, 3.0))
def test_a_constant_load_never_makes_a_pool_swing(
    config: ScalingConfig, count: int, demand: float, queue_at_one: float, steepness: float
) -> None:
    decisions = play(config, count, demand, queue_at_one, steepness)
    sizes = [count, *(d.after for d in decisions)]
    assert all(config.min <= d.after <= (config.max or 0) for d in decisions)
    left_upwards = [d.before for d in decisions[1:] if d.after > d.before]
    assert len(left_upwards) == len(set(left_upwards)), f"a size is found too small twice: {sizes}"
    late = play(config, sizes[-1], demand, queue_at_one, steepness)
    assert len(decisions) < 400 - 1 and len(late) <= len(decisions) + len(sizes), "it never settles"


@settings(max_examples=100, deadline=None)
@given(
    configs,
    st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 1.0), st.floats(0.0, 200.0)), max_size=60),
    st.integers(1, 60),
)
def test_whatever_the_load_bounds_and_cool_downs_hold(
    config: ScalingConfig, seen: list[tuple[float, float, float]], count: int
) -> None:
    state, now, changed = ScalingState(), 0.0, -math.inf
    count = min(max(count, config.min), config.max or count)
    for queue_s, utilisation, passed_s in seen:
        now += passed_s
        state, decision = decide(config, state, load(queue_s, utilisation), count, now)
        if decision is None:
            continue
        assert config.min <= decision.after <= (config.max or 0) and decision.after != count
        grows = decision.after > count
        assert now - changed >= (config.up_cooldown_s if grows else config.down_cooldown_s)
        assert (queue_s > config.target_queue_s) is grows
        changed, count = now, decision.after

"""The reward server on a virtual clock: batching, isolation of poison samples, retries, deadlines."""

from __future__ import annotations

import asyncio
import gc
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_scene import Scripted, now, raises, run, sample, samples, server, values

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.batching import calls, units
from rewards.server import verdict_deadline_s


class WholeGroups(Scripted):
    scope = "group"


POISONS: dict[str, Callable[[Sequence[Sample]], Any]] = {
    "raises": lambda call: raises(RuntimeError("poisoned")),
    "hangs": lambda call: asyncio.sleep(math.inf),
    "is not finite": lambda call: [Score(value=math.nan)],
    "is one too few": lambda call: [Score(value=-1.0)] * (len(call) - 1),
    "is no list": lambda call: 3.0,
    "cancels itself": lambda call: raises(asyncio.CancelledError()),
}


def test_scores_come_back_in_order_with_their_provenance() -> None:
    component = Scripted(seconds=2.0)
    scores = run(server(component, batch_size=3, version=7).score(samples(8)))
    assert values(scores) == [float(i) for i in range(8)]
    assert [len(call) for call in component.calls] == [3, 3, 2]
    assert {(s.component, s.version, s.attempt, s.latency_s) for s in scores} == {("unit", 7, 0, 2.0)}


def test_a_component_that_learns_stamps_its_own_version() -> None:
    class Learner(Scripted):
        version = 41

        def update(self, rows: Any) -> dict[str, float]: ...
        def state(self) -> dict[str, Any]: ...
        def load(self, state: Any) -> None: ...

    assert run(server(Learner()).score(samples(1)))[0].version == 41


def test_no_more_calls_run_at_a_time_than_allowed() -> None:
    component = Scripted(seconds=1.0)

    async def scenario() -> dict[str, Any]:
        host = server(component, batch_size=1, concurrency=2)
        scoring = asyncio.create_task(host.score(samples(6)))
        await asyncio.sleep(0.5)
        assert host.stats()["queue"] == 4
        await scoring
        return host.stats() | {"finished": now()}

    stats = run(scenario())
    assert component.most_running == 2
    assert (stats["finished"], stats["calls"], stats["items"], stats["ok"]) == (3.0, 6, 6, 6)
    assert (stats["busy_s"], stats["busy_share"], stats["latency_p50_s"]) == (6.0, 1.0, 1.0)


def test_a_group_is_never_split_also_when_it_is_retried() -> None:
    members = [sample(str(i), group=f"g{i % 3}") for i in range(9)]
    component = WholeGroups(misbehave=lambda call: raises(OSError("down")) if "1" in {s.id for s in call} else None)
    scores = run(server(component, batch_size=7, retries=0).score(members))
    assert component.calls[:2] == [["0", "3", "6", "1", "4", "7"], ["2", "5", "8"]]
    assert sorted(component.calls[2:]) == [["0", "3", "6"], ["1", "4", "7"]]
    assert [s.status for s in scores] == [ScoreStatus.OK, ScoreStatus.ERROR, ScoreStatus.OK] * 3


@given(
    group_of=st.lists(st.integers(0, 4), max_size=20),
    batch_size=st.integers(1, 7),
    scope=st.sampled_from(["sample", "group", "batch"]),
)
def test_calls_cover_every_sample_once_and_keep_units_whole(group_of: list[int], batch_size: int, scope: str) -> None:
    together = units([sample(str(i), group=str(g)) for i, g in enumerate(group_of)], scope)
    packed = calls(together, batch_size)
    assert sorted(p for call in packed for unit in call for p in unit) == list(range(len(group_of)))
    assert [unit for call in packed for unit in call] == together
    assert all(len(call) == 1 or sum(map(len, call)) <= batch_size for call in packed)
    if scope == "group":
        assert sorted(str(group_of[unit[0]]) for unit in together) == sorted(map(str, set(group_of)))


@given(group_of=st.lists(st.integers(0, 3), max_size=15))
def test_pairs_are_two_of_a_group_and_leave_out_only_who_is_alone(group_of: list[int]) -> None:
    together = units([sample(f"{i:02}", group=str(g)) for i, g in enumerate(group_of)], "pair")
    assert {p for pair in together for p in pair} == set(range(len(group_of)))
    for pair in together:
        assert len({group_of[p] for p in pair}) == 1
        assert len(set(pair)) == 2 or group_of.count(group_of[pair[0]]) == 1
    twice = len([p for pair in together for p in pair]) - len(group_of)
    assert twice == sum(group_of.count(g) % 2 for g in set(group_of) if group_of.count(g) > 1)


class Duel(Component):
    """Scores the id of the other one, -1 where there is none; notes its calls."""

    scope = "pair"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.calls.append([s.id for s in samples])
        names = [float(s.id) for s in samples]
        return [Score(value=other) for other in (reversed(names) if len(names) > 1 else [-1.0])]


def test_a_pair_component_is_given_one_pair_per_call_whoever_arrived_first() -> None:
    component = Duel()
    arrived = [sample(i, group=g) for i, g in (("4", "b"), ("2", "a"), ("3", "a"), ("1", "a"), ("5", "b"), ("6", "c"))]
    scores = run(server(component, batch_size=64, concurrency=1).score(arrived))
    assert component.calls == [["4", "5"], ["1", "2"], ["3", "1"], ["6"]]
    # The second duel of 1 is for the sake of 3: the score of 1 is that of its first.
    assert [s.value for s in scores] == [5.0, 1.0, 1.0, 2.0, 4.0, -1.0]


@pytest.mark.parametrize("poison", POISONS)
@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 12),
    bad=st.integers(0, 11),
    batch_size=st.integers(1, 12),
    concurrency=st.integers(1, 3),
    retries=st.integers(0, 2),
    seconds=st.sampled_from([0.0, 1.0]),
)
def test_one_bad_sample_never_changes_its_neighbours_scores(
    poison: str, count: int, bad: int, batch_size: int, concurrency: int, retries: int, seconds: float
) -> None:
    bad %= count
    component = Scripted(seconds, lambda call: POISONS[poison](call) if str(bad) in {s.id for s in call} else None)
    host = server(component, batch_size=batch_size, concurrency=concurrency, retries=retries, deadline_s=20.0)
    scores = run(host.score(samples(count)))
    assert values(scores) == [None if i == bad else float(i) for i in range(count)]
    assert scores[bad].status is (ScoreStatus.TIMEOUT if poison == "hangs" else ScoreStatus.ERROR)
    assert "'unit'" in scores[bad].detail
    assert sum([str(bad)] == call for call in component.calls) == retries + 1


def test_the_component_decides_about_single_samples_without_a_retry() -> None:
    abstained = Score.invalid(ScoreStatus.ABSTAINED, "cannot judge")
    answer = [abstained, Score(vector=(math.inf,), value=1.0), 0.5, Score(value=2.0)]
    component = Scripted(misbehave=lambda call: answer)
    scores = run(server(component).score(samples(4)))
    assert [s.status.value for s in scores] == ["abstained", "error", "error", "ok"]
    assert "not finite" in scores[1].detail and "'unit' returned a float, 0.5" in scores[2].detail
    assert len(component.calls) == 1 and {s.component for s in scores} == {"unit"}


def test_retries_back_off_with_jitter_and_end() -> None:
    component = Scripted(misbehave=lambda call: raises(OSError("down")))
    host = server(component, retries=3, breaker_failures=99)
    score = run(host.score(samples(1)))[0]
    pauses = [later - earlier for earlier, later in zip(component.starts, component.starts[1:], strict=False)]
    expected = [0.1 * 2**n * random_factor for n, random_factor in enumerate(jitter(3))]
    assert pauses == pytest.approx(expected)
    assert (score.status, score.attempt, score.detail) == (ScoreStatus.ERROR, 3, "component 'unit': OSError: down")


def jitter(count: int) -> list[float]:
    rng = random.Random(0)
    return [rng.uniform(0.5, 1.5) for _ in range(count)]


def test_retries_go_before_calls_that_wait_for_their_first_turn() -> None:
    component = Scripted(1.0, lambda call: raises(OSError("once")) if len(component.calls) == 1 else None)
    run(server(component, batch_size=1, concurrency=1, deadline_s=5.0).score(samples(5)))
    assert [call[0] for call in component.calls] == ["0", "1", "0", "2", "3", "4"]


def test_a_call_that_finds_no_slot_in_time_times_out_and_says_so() -> None:
    async def scenario() -> tuple[list[Score], float]:
        host = server(Scripted(4.0), batch_size=1, concurrency=1, queue_deadline_s=3.0)
        return await host.score(samples(2)), now()

    scores, finished = run(scenario())
    assert values(scores) == [0.0, None] and finished == 4.0
    assert scores[1].status is ScoreStatus.TIMEOUT and "no slot of 'unit' within 3 s" in scores[1].detail


def test_a_cancelled_score_gives_its_slot_and_its_place_in_line_back() -> None:
    async def scenario() -> dict[str, Any]:
        host = server(Scripted(1.0), batch_size=1, concurrency=1)
        doomed = asyncio.create_task(host.score(samples(3)))
        await asyncio.sleep(0.5)
        doomed.cancel()
        await asyncio.wait({doomed})
        assert values(await host.score(samples(2))) == [0.0, 1.0]
        return host.stats() | {"finished": now()}

    stats = run(scenario())
    assert (stats["finished"], stats["queue"], stats["calls"]) == (2.5, 0, 2)


def test_whatever_fails_the_last_verdict_comes_within_the_announced_deadline() -> None:
    async def scenario() -> tuple[list[Score], float]:
        host = server(Scripted(math.inf), batch_size=64, concurrency=2, deadline_s=10.0, retries=2)
        return await host.score(samples(64)), now()

    scores, finished = run(scenario())
    assert {s.status for s in scores} <= {ScoreStatus.TIMEOUT, ScoreStatus.ERROR}
    assert finished <= verdict_deadline_s(10.0, 5.0)


def test_what_an_abandoned_call_raises_later_is_nobodys_business() -> None:
    class Stubborn(Scripted):
        async def score(self, call: Sequence[Sample]) -> Any:
            try:
                await asyncio.sleep(math.inf)
            finally:
                raise OSError("while cleaning up")

    async def scenario() -> list[Any]:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        score = (await server(Stubborn(), retries=0).score(samples(1)))[0]
        assert score.status is ScoreStatus.TIMEOUT
        await asyncio.sleep(1.0)
        gc.collect()
        return complaints

    assert run(scenario()) == []


def test_an_unknown_scope_is_refused() -> None:
    class Wide(Scripted):
        scope = "galaxy"

    with pytest.raises(ValueError, match=r"'galaxy'; it must be one of sample, group"):
        server(Wide())

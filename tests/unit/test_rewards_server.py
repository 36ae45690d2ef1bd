"""The reward server on a virtual clock: batching, isolation, retries, queue, breaker, provenance."""

from __future__ import annotations

import asyncio
import gc
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buffers.scores import Sample, Score, ScoreStatus
from rewards.base import Component
from rewards.batching import calls, units
from rewards.breaker import BreakerState, CircuitBreaker
from rewards.server import RewardServer, verdict_deadline_s
from rewards.slots import Slots


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of sleeping."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready:
            self.now_s = min((timer.when() for timer in self._scheduled if not timer.cancelled()), default=self.now_s)
        super()._run_once()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def now() -> float:
    return asyncio.get_running_loop().time()


def sample(name: str, group: str = "g", completion: str = "") -> Sample:
    return Sample(id=name, group=group, prompt="", completion=completion)


def samples(count: int) -> list[Sample]:
    return [sample(str(i)) for i in range(count)]


class Scripted(Component):
    """Sleeps `seconds`, then scores each sample by its id; `misbehave` may spoil a call first."""

    def __init__(self, seconds: float = 0.0, misbehave: Callable[[Sequence[Sample]], Any] = lambda call: None) -> None:
        self.seconds = seconds
        self.misbehave = misbehave
        self.calls: list[list[str]] = []
        self.starts: list[float] = []
        self.running = self.most_running = 0

    async def score(self, call: Sequence[Sample]) -> Any:
        self.calls.append([s.id for s in call])
        self.starts.append(now())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
            spoiled = self.misbehave(call)
            if asyncio.iscoroutine(spoiled):
                spoiled = await spoiled
        finally:
            self.running -= 1
        return [Score(value=float(s.id)) for s in call] if spoiled is None else spoiled


class WholeGroups(Scripted):
    scope = "group"


def server(component: Component, **settings: Any) -> RewardServer:
    return RewardServer(component, name="unit", rng=random.Random(0), **settings)


def values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]


def raises(error: Exception) -> Any:
    raise error


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
    scope=st.sampled_from(["sample", "group", "pair", "batch"]),
)
def test_calls_cover_every_sample_once_and_keep_units_whole(group_of: list[int], batch_size: int, scope: str) -> None:
    together = units([sample(str(i), group=str(g)) for i, g in enumerate(group_of)], scope)
    packed = calls(together, batch_size)
    assert sorted(p for call in packed for unit in call for p in unit) == list(range(len(group_of)))
    assert [unit for call in packed for unit in call] == together
    assert all(len(call) == 1 or sum(map(len, call)) <= batch_size for call in packed)
    if scope in ("group", "pair"):
        assert sorted(str(group_of[unit[0]]) for unit in together) == sorted(map(str, set(group_of)))


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


def test_a_breaker_opens_after_failures_in_a_row_and_one_probe_closes_it() -> None:
    broken_until_s = 12.0
    component = Scripted(1.0, lambda call: raises(OSError("down")) if now() < broken_until_s else None)

    async def scenario() -> tuple[list[Score], Any]:
        host = server(component, batch_size=1, concurrency=3, retries=2, breaker_failures=3, breaker_reset_s=4.0)
        return await host.score(samples(3)), host.stats()["breaker"]

    scores, breaker = run(scenario())
    assert values(scores) == [0.0, 1.0, 2.0]
    # All three fail at 1 s; the probes of 5 s and 10 s fail too; that of 15 s succeeds and frees the others.
    assert component.starts[:5] == [0.0, 0.0, 0.0, 5.0, 10.0]
    assert component.starts[5:] == [15.0, 16.0, 16.0]
    assert breaker == "closed"


def test_behind_an_open_breaker_a_call_waits_for_the_probe_and_then_says_why_it_failed() -> None:
    component = Scripted(misbehave=lambda call: raises(OSError("down")))

    async def scenario() -> tuple[list[Score], float]:
        host = server(component, batch_size=1, retries=0, deadline_s=1.0, breaker_failures=1, breaker_reset_s=60.0)
        await host.score(samples(1))
        component.seconds = math.inf
        return await host.score(samples(2)), now()  # the breaker lets one probe through at 60 s

    (probe, waiting), finished = run(scenario())
    assert component.starts == [0.0, 60.0] and component.calls == [["0"], ["0"]]
    assert (probe.status, waiting.status) == (ScoreStatus.TIMEOUT, ScoreStatus.ERROR)
    assert waiting.detail.startswith("breaker open: 'unit'")
    assert finished == 61.0


def test_what_the_breaker_refuses_is_not_tried_again() -> None:
    component = Scripted(misbehave=lambda call: raises(OSError("down")) if len(component.calls) > 1 else None)

    async def scenario() -> list[list[Score]]:
        host = server(component, batch_size=1, retries=2, deadline_s=1.0, breaker_failures=1, breaker_reset_s=60.0)
        await host.score(samples(1))
        first = asyncio.create_task(host.score(samples(2)))
        await asyncio.sleep(0.01)
        component.seconds = math.inf
        return [await first, await host.score(samples(1))]

    retried, fresh = run(scenario())
    # One retry is the probe at 60 s and goes on; the other is refused. What comes later has its own probe.
    assert sorted(score.attempt for score in retried) == [1, 2]
    assert component.starts[1:4] == [0.0, 0.0, 60.0] and fresh[0].status is ScoreStatus.TIMEOUT


def test_behind_a_component_that_never_worked_all_calls_wait_together_and_say_what_it_raised() -> None:
    component = Scripted(misbehave=lambda call: raises(OSError("no such judge")))

    async def scenario() -> tuple[list[Score], float]:
        host = server(component, batch_size=1, concurrency=2, retries=0, deadline_s=1.0, breaker_reset_s=4.0)
        return await host.score(samples(60)), now()

    scores, finished = run(scenario())
    assert all(score.status is ScoreStatus.ERROR and "no such judge" in score.detail for score in scores)
    assert finished <= 2 * (4.0 + 1.0) + 1.0, "each call waited for itself"


def test_a_first_call_that_the_breaker_refuses_is_not_tried_again() -> None:
    component = Scripted(misbehave=lambda call: raises(OSError("down")))

    async def scenario() -> list[Score]:
        host = server(component, batch_size=1, retries=2, deadline_s=1.0, breaker_failures=1, breaker_reset_s=60.0)
        component.seconds = math.inf
        probing = asyncio.create_task(host.score(samples(1)))
        await asyncio.sleep(2.0)  # its call has timed out and opened the breaker
        refused = await host.score([sample("1"), sample("2"), sample("3")])
        await probing
        return refused

    refused = run(scenario())
    assert "breaker open" in refused[-1].detail and refused[-1].attempt == 0


def test_a_cancelled_probe_hands_its_place_to_the_next_call() -> None:
    component = Scripted(misbehave=lambda call: raises(OSError("down")) if len(component.calls) == 1 else None)

    async def scenario() -> tuple[list[Score], float]:
        host = server(component, retries=0, deadline_s=9.0, breaker_failures=1, breaker_reset_s=60.0)
        await host.score(samples(1))
        component.seconds = 5.0
        probe = asyncio.create_task(host.score(samples(1)))
        await asyncio.sleep(62.0)
        probe.cancel()
        return await host.score(samples(1)), now()

    scores, finished = run(scenario())
    assert values(scores) == [0.0] and (component.starts, finished) == ([0.0, 60.0, 62.0], 67.0)


def test_a_place_that_is_handed_over_in_the_moment_of_giving_up_is_not_lost() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        async with slots.hold(1.0):
            waiting = asyncio.create_task(occupy(slots))
            await asyncio.sleep(0.5)
            assert slots.waiting == 1
        waiting.cancel()  # it has been given the place and does not know yet
        await asyncio.wait({waiting})
        async with slots.hold(1.0):
            assert now() == 0.5

    run(scenario())


def test_who_gives_up_leaves_the_line() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        async with slots.hold(1.0):
            with pytest.raises(TimeoutError):
                await occupy(slots)
            assert (now(), slots.waiting) == (1.0, 0)

    run(scenario())


async def occupy(slots: Slots) -> None:
    async with slots.hold(1.0):
        pass


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


def test_a_half_open_breaker_admits_a_single_probe() -> None:
    async def scenario() -> None:
        breaker = CircuitBreaker(failures=2, reset_s=4.0)
        for _ in range(2):
            assert breaker.state is BreakerState.CLOSED and await breaker.admit(0.0)
            breaker.record(False)
        assert breaker.state is BreakerState.OPEN and not await breaker.admit(3.0)
        assert now() == 3.0
        waiting = [asyncio.create_task(breaker.admit(100.0)) for _ in range(3)]
        await asyncio.sleep(1.5)
        assert [task.done() for task in waiting].count(True) == 1 and breaker.state is BreakerState.HALF_OPEN
        breaker.record(False)  # the probe failed, 0.5 s late: open for another 4 s
        assert breaker.state is BreakerState.OPEN
        await asyncio.sleep(3.9)
        assert [task.done() for task in waiting].count(True) == 1
        await asyncio.sleep(0.2)
        assert [task.done() for task in waiting].count(True) == 2
        breaker.record(True)
        assert all(await asyncio.gather(*waiting)) and breaker.state is BreakerState.CLOSED

    run(scenario())


def test_a_forgotten_probe_leaves_the_way_to_the_next_one() -> None:
    async def scenario() -> None:
        breaker = CircuitBreaker(failures=1, reset_s=4.0)
        breaker.record(False)
        assert await breaker.admit(10.0) and now() == 4.0
        breaker.forget()
        assert await breaker.admit(10.0) and now() == 4.0

    run(scenario())


def test_a_success_in_between_keeps_the_breaker_closed() -> None:
    async def scenario() -> BreakerState:
        breaker = CircuitBreaker(failures=2, reset_s=4.0)
        for succeeded in (False, True, False):
            breaker.record(succeeded)
        return breaker.state

    assert run(scenario()) is BreakerState.CLOSED


def test_an_unknown_scope_is_refused() -> None:
    class Wide(Scripted):
        scope = "galaxy"

    with pytest.raises(ValueError, match=r"'galaxy'; it must be one of sample, group"):
        server(Wide())

"""Who is let in: the circuit breaker of a reward server, and the line for its slots, on a virtual clock."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from server_scene import Scripted, now, raises, run, sample, samples, server, values

from buffers.scores import Score, ScoreStatus
from rewards.breaker import BreakerState, CircuitBreaker
from rewards.slots import Slots


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

"""The token bucket on a virtual clock, and what Retry-After asks for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from server_scene import now, run

from rewards.endpoints.pace import Pace, retry_after_s


async def turns(pace: Pace, count: int) -> list[float]:
    """Ask for turns at once; return when they came."""
    came = []

    async def one() -> None:
        await pace.turn()
        came.append(now())

    await asyncio.gather(*(one() for _ in range(count)))
    return came


def test_after_a_pause_one_seconds_worth_of_turns_comes_at_once():
    assert run(turns(Pace(4.0), 8)) == pytest.approx([0, 0, 0, 0, 0.25, 0.5, 0.75, 1.0])


def test_a_rate_below_one_a_second_saves_nothing_up():
    assert run(turns(Pace(0.5), 3)) == pytest.approx([0, 2, 4])


def test_without_a_rate_there_is_no_wait():
    assert run(turns(Pace(None), 50)) == [0.0] * 50


def test_the_long_run_rate_holds_however_calls_are_spread():
    async def spread() -> int:
        pace, count = Pace(5.0), 0
        while now() < 20.0:
            await pace.turn()
            count += 1
            await asyncio.sleep(0.13)
        return count

    assert run(spread()) <= 5 + 20 * 5


def test_a_hold_delays_also_those_that_wait_already():
    async def scene() -> list[float]:
        pace = Pace(1.0)
        waiting = asyncio.create_task(turns(pace, 2))
        await asyncio.sleep(0.5)
        pace.hold(10.0)
        pace.hold(1.0)  # a shorter one does not shorten it
        return [*await waiting, *await turns(pace, 1)]

    assert run(scene()) == pytest.approx([0, 10.5, 10.5])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("9" * 400, 0.0),
        ("soon", 0.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 12:00:30 -0000", 30.0),
        ("Sat, 99 Nov 2026 12:00:30 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(header: str | None, seconds: float):
    assert retry_after_s(header, datetime(2026, 11, 21, 12, tzinfo=UTC)) == seconds

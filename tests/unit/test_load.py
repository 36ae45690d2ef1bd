"""Queue times and utilisation of pools: what one queue measures, and what several reports make together."""

from __future__ import annotations

import asyncio

from buffers.load import KEPT, WINDOW_S, LoadMeter, Report, loads, pool_figures
from rewards.slots import Slots


class Clock:
    """Seconds that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_work_waits_from_its_arrival_to_its_begin():
    clock = Clock()
    meter = LoadMeter(clock=clock)
    meter.came("a")
    clock.now += 2.0
    meter.came("b")
    meter.begun("a")
    clock.now += 3.0
    assert meter.report() == Report(waiting=1, waits_s=(2.0, 3.0)), "b waits still, and that shows"
    meter.gone("b")
    meter.begun("never came")
    assert meter.report() == Report(waiting=0, waits_s=(2.0,))
    clock.now += WINDOW_S
    assert meter.report() == Report()


def test_work_that_is_offered_again_has_waited_since_the_first_time():
    clock = Clock()
    meter = LoadMeter(clock=clock)
    meter.came("a")
    clock.now += 1.0
    meter.came("a")
    assert meter.report().waits_s == (1.0,)


def test_a_report_is_bounded():
    clock = Clock()
    meter = LoadMeter(clock=clock)
    for i in range(3 * KEPT):
        meter.came(i)
        meter.begun(i)
        meter.came(-i)
    assert len(meter.report().waits_s) == KEPT and meter.report().waiting == 3 * KEPT


def test_the_busy_share_looks_back_one_window():
    clock, worked = Clock(), [0.0]
    meter = LoadMeter(lambda: worked[0], places=2, clock=clock)
    assert "busy" not in pool_figures([meter.report()]), "nothing is known before there is an interval"
    clock.now += 10.0
    worked[0] += 5.0
    assert pool_figures([meter.report()])["busy"] == 5.0 / 20.0
    for _ in range(100):  # then it idles
        clock.now += 2.0
        figures = pool_figures([meter.report()])
    assert figures["busy"] == 0.0


def test_the_reports_on_a_pool_count_together():
    reports = [
        Report(waiting=2, waits_s=(1.0, 2.0, 3.0), busy_s=3.0, room_s=4.0),
        Report(waiting=1, waits_s=(9.0,), busy_s=0.0, room_s=2.0),
        Report(waiting=4),
    ]
    assert pool_figures(reports) == {"waiting": 7.0, "queue_p50_s": 3.0, "queue_p95_s": 9.0, "busy": 0.5}
    assert pool_figures([]) == {}
    answers = [{"load": {"a": reports[0], "b": reports[1]}}, {"version": 3}, {"load": {"b": reports[2]}}]
    assert loads(answers) == {"a": [reports[0]], "b": [reports[1], reports[2]]}


async def test_slots_know_who_waits_and_how_long():
    slots, entered, leave = Slots(1), asyncio.Event(), asyncio.Event()

    async def occupy() -> None:
        async with slots.hold(60.0):
            entered.set()
            await leave.wait()

    first = asyncio.create_task(occupy())
    await entered.wait()
    second = asyncio.create_task(occupy())
    while not slots.waiting:
        await asyncio.sleep(0)
    report = slots.load.report()
    assert report.waiting == 1 and len(report.waits_s) == 2 and report.waits_s[0] <= report.waits_s[1]
    leave.set()
    await asyncio.gather(first, second)
    late = asyncio.create_task(occupy())
    await late
    report = slots.load.report()
    assert report.waiting == 0 and len(report.waits_s) == 3
    assert 0.0 < report.busy_s <= report.room_s


async def test_a_call_that_gives_up_leaves_the_queue():
    slots, leave = Slots(1), asyncio.Event()

    async def occupy(deadline_s: float) -> None:
        async with slots.hold(deadline_s):
            await leave.wait()

    first = asyncio.create_task(occupy(60.0))
    await asyncio.sleep(0)
    second = asyncio.create_task(occupy(0.01))
    await asyncio.wait({second}, timeout=60.0)
    assert isinstance(second.exception(), TimeoutError)
    assert slots.load.report().waiting == 0
    leave.set()
    await first

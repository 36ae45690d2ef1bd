"""Real hangs, crashes and kills: threads that never return, children that must be killed, lost replicas."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from buffers.scores import Sample, Score, ScoreStatus
from buffers.transport import HandleSet, LocalHandle
from rewards.base import Component
from rewards.combine import Combine, Term
from rewards.graph import RewardGraph, RewardPart
from rewards.server import RewardServer
from rewards.threads import WorkerThreads
from rewards.verifiers.child import Child, ChildPool
from rewards.verifiers.format import Format
from rewards.verifiers.symbolic import MathEqual

pytestmark = pytest.mark.fault

ENDLESS_POWER = "$9^{9^{9^{9}}}$"


class Poisonable(Component):
    """Scores a sample by its id, in a thread; runs `poison` first on every sample called "bad"."""

    def __init__(self, poison: Callable[[], Any]) -> None:
        self._poison = poison

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(value=float(self._poison() if s.id == "bad" else s.id)) for s in samples]


def named(*names: str) -> list[Sample]:
    return [Sample(id=name, group="g", prompt="", completion="") for name in names]


def server(component: Component, **settings: Any) -> RewardServer:
    settings = {"deadline_s": 0.15, "retries": 1, "breaker_reset_s": 0.2, **settings}
    return RewardServer(component, name="unit", rng=random.Random(0), **settings)


def judged(*pairs: tuple[str, str]) -> list[Sample]:
    return [Sample(id=text, group="g", prompt="", completion=text, answer=answer) for text, answer in pairs]


# Functions that the children below serve.


def sleep_or_die(item: dict[str, Any]) -> dict[str, Any]:
    if item["do"] == "sleep":
        time.sleep(60)
    if item["do"] == "die":
        os._exit(3)
    if item["do"] == "grab":
        return {"value": len(bytearray(3 << 30))}
    if item["do"] == "print":
        print("a library says hello")
    return {"value": os.getpid()}


@pytest.fixture
def pool() -> Iterator[ChildPool]:
    children = ChildPool(f"{__name__}:sleep_or_die", memory_bytes=2 << 30)
    yield children
    children.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_thread_that_sleeps_forever_is_abandoned_and_its_neighbours_are_scored() -> None:
    release = threading.Event()
    host = server(Poisonable(lambda: release.wait(60)))
    scores = await host.score(named("1", "bad", "3"))
    assert [s.value for s in scores] == [1.0, None, 3.0]
    assert scores[1].status is ScoreStatus.TIMEOUT and "no answer for bad within 0.15 s" in scores[1].detail
    # The first call, the bad sample alone, and one retry of it.
    assert (host.stats()["abandoned"], host.stats()["hung_threads"]) == (3, 3)
    release.set()
    async with asyncio.timeout(10):
        while host.stats()["hung_threads"]:
            await asyncio.sleep(0.01)
    assert host.stats()["abandoned"] == 3
    host.close()


async def test_too_many_hung_threads_make_a_server_unhealthy() -> None:
    release = threading.Event()
    host = server(Poisonable(lambda: release.wait(60)), retries=0, max_hung_threads=1, deadline_s=0.05)
    await host.score(named("bad"))
    assert host.healthy()
    await host.score(named("bad"))
    assert not host.healthy()
    release.set()
    host.close()


async def test_an_infinite_loop_in_a_thread_stops_neither_the_server_nor_the_neighbours() -> None:
    stop = threading.Event()

    def spin() -> float:
        while not stop.is_set():
            pass
        return 0.0

    host = server(Poisonable(spin), deadline_s=0.25)
    scores = await host.score(named("1", "bad", "3"))
    stop.set()
    assert [s.value for s in scores] == [1.0, None, 3.0] and scores[1].status is ScoreStatus.TIMEOUT
    host.close()


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit("broken"), StopIteration("broken")])
async def test_whatever_a_thread_raises_is_the_error_of_its_sample(error: BaseException) -> None:
    def fail() -> float:
        raise error

    host = server(Poisonable(fail), deadline_s=5.0)
    scores = await host.score(named("1", "bad", "3"))
    assert [s.value for s in scores] == [1.0, None, 3.0]
    assert scores[1].status is ScoreStatus.ERROR and "broken" in scores[1].detail
    assert host.stats()["abandoned"] == 0
    host.close()


class Warming(Component):
    """Takes longer to get ready than a call may."""

    def __init__(self) -> None:
        self.warmed: list[int] = []

    def warm(self, concurrency: int) -> None:
        time.sleep(0.3)
        self.warmed.append(concurrency)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(value=float(len(self.warmed))) for _ in samples]


async def test_getting_ready_happens_once_before_any_deadline_also_if_who_asked_first_gives_up() -> None:
    component = Warming()
    host = server(component, concurrency=3, retries=0)
    hasty = asyncio.create_task(host.score(named("1")))
    await asyncio.sleep(0.05)
    hasty.cancel()
    assert [s.value for s in await host.score(named("1"))] == [1.0]
    assert component.warmed == [3]
    host.close()


async def test_a_thread_whose_answer_crosses_the_giving_up_is_not_taken_for_hung() -> None:
    threads = WorkerThreads("test")
    running = asyncio.create_task(threads.run(time.sleep, 0.01))
    while not (threads._idle or running.done()):
        await asyncio.sleep(0)
    running.cancel()  # the answer is there, and the task has not run since
    await asyncio.wait({running})
    assert running.cancelled() and (threads.hung, threads.abandoned) == (0, 0)
    # With its thread still at work, the same is an abandoned call.
    begun, over = threading.Event(), threading.Event()
    running = asyncio.create_task(threads.run(lambda: (begun.set(), over.wait())))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait({running})
    assert (threads.hung, threads.abandoned) == (1, 1)
    over.set()
    threads.close()


async def test_an_expression_that_math_verify_never_finishes_is_killed_and_its_neighbours_are_scored() -> None:
    host = server(MathEqual(deadline_s=1.0), deadline_s=30.0, concurrency=1)
    scores = await host.score(judged(("$1/2$", "0.5"), (ENDLESS_POWER, "5"), ("$2$", "2")))
    assert [s.value for s in scores] == [1.0, None, 1.0]
    assert scores[1].status is ScoreStatus.TIMEOUT and "within 1 s; it was killed" in scores[1].detail
    assert gone(int(scores[1].detail.partition("pid ")[2].partition(")")[0]))
    assert host.stats()["abandoned"] == 0
    host.close()


async def test_a_pattern_that_backtracks_forever_is_killed_while_the_event_loop_goes_on() -> None:
    host = server(Format(pattern="(a+)+b", deadline_s=1.0), deadline_s=30.0)
    await host.start()
    scoring = asyncio.create_task(host.score(judged(("a" * 64, ""), ("aab", ""))))
    turns = 0
    while not scoring.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert [s.status for s in await scoring] == [ScoreStatus.TIMEOUT, ScoreStatus.OK]
    assert turns > 10, "the loop stood still while the pattern was matched"
    host.close()


def test_a_child_that_hangs_is_killed_and_replaced(pool: ChildPool) -> None:
    first = pool.judge({"do": "answer"}, 20.0).value
    assert pool.judge({"do": "answer"}, 20.0).value == first
    score = pool.judge({"do": "sleep"}, 0.1)
    assert score.status is ScoreStatus.TIMEOUT and gone(int(first or 0))
    assert pool.judge({"do": "answer"}, 20.0).value not in (None, first)


@pytest.mark.parametrize(("what", "detail"), [("die", "ended with status 3"), ("grab", "MemoryError")])
def test_a_child_that_dies_or_runs_out_of_memory_is_an_error(pool: ChildPool, what: str, detail: str) -> None:
    score = pool.judge({"do": what}, 20.0)
    assert score.status is ScoreStatus.ERROR and detail in score.detail
    assert pool.judge({"do": "answer"}, 20.0).status is ScoreStatus.OK


def test_what_a_library_prints_does_not_mix_with_the_answers(pool: ChildPool) -> None:
    assert pool.judge({"do": "print"}, 20.0).status is ScoreStatus.OK


def test_items_larger_than_a_pipe_arrive_whole(pool: ChildPool) -> None:
    assert pool.judge({"do": "answer", "text": "x" * 300_000}, 20.0).status is ScoreStatus.OK


def test_a_child_that_does_not_even_read_its_item_is_killed_too(pool: ChildPool) -> None:
    os.kill(int(pool.judge({"do": "answer"}, 20.0).value or 0), signal.SIGSTOP)
    score = pool.judge({"do": "answer", "text": "x" * 300_000}, 0.2)
    assert score.status is ScoreStatus.TIMEOUT


def test_a_child_killed_between_two_items_is_an_error_once(pool: ChildPool) -> None:
    pid = int(pool.judge({"do": "answer"}, 20.0).value or 0)
    os.kill(pid, signal.SIGKILL)
    statuses = [pool.judge({"do": "answer"}, 20.0).status for _ in range(2)]
    assert statuses == [ScoreStatus.ERROR, ScoreStatus.OK]


def test_a_child_whose_function_cannot_be_imported_is_an_error() -> None:
    score = ChildPool("rewards.no_such_module:judge").judge({}, 20.0)
    assert score.status is ScoreStatus.ERROR and "rewards.no_such_module:judge" in score.detail


def test_a_child_that_lost_its_parent_ends_by_itself() -> None:
    child = Child(f"{__name__}:sleep_or_die")
    with pytest.raises(TimeoutError):
        child.ask({"do": "sleep"}, 0.1)
    # Nobody kills it here; its own alarm does, soon after the deadline.
    until = time.monotonic() + 15
    while child._process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert child._process.returncode == -signal.SIGALRM
    child.close()


async def test_a_replica_killed_while_it_scores_is_replaced_by_another() -> None:
    release = threading.Event()
    dying = LocalHandle("a-0", server(Poisonable(lambda: release.wait(60)), deadline_s=5.0))
    replicas = HandleSet("a")
    replicas.attach(dying)
    graph = RewardGraph({"a": RewardPart(replicas=replicas, deadline_s=10.0)}, Combine({"a": Term()}))
    scoring = asyncio.create_task(graph.score(named("bad", "2"), 0))
    await asyncio.sleep(0.05)
    dying.kill()
    replicas.attach(LocalHandle("a-1", server(Poisonable(lambda: 7.0))))
    release.set()
    assert [v.total for v in await scoring] == [7.0, 2.0]

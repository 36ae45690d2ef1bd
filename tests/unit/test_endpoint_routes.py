"""Servers that are alike: who is asked, who is left alone, and what a dead one costs."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from endpoint_server import completion, replies, serving

from buffers.scores import ScoreStatus
from rewards.answers import Failure
from rewards.endpoints.client import Client, Limits
from rewards.endpoints.routes import Reply, Routes
from rewards.endpoints.settings import EndpointSettings

BROKEN = Reply(Failure(ScoreStatus.ERROR, "it is broken"), sound=False)
GOOD = Reply({"choices": []})
LONG_S = 60.0


@dataclass
class Scripted:
    """A server that answers what a test says."""

    name: str
    reply: Reply = GOOD
    seen: list[Any] = field(default_factory=list)
    held: asyncio.Event | None = None

    async def send(self, body: dict[str, Any], deadline_s: float) -> Reply:
        self.seen.append(body)
        if self.held is not None:
            await self.held.wait()
        return self.reply

    async def close(self) -> None:
        pass


def client(*servers: Scripted, failures: int = 3, reset_s: float = 0.2, **limits: Any) -> Client:
    fields = {"concurrency": 8, "requests_per_s": None, "request_deadline_s": LONG_S, "retries": 0, "backoff_s": 0.001}
    return Client(
        Routes("servers", failures=failures, reset_s=reset_s, servers=servers), Limits(**{**fields, **limits})
    )


async def post(asking: Client, number: int = 0) -> Any:
    return await asking.post({"n": number}, asyncio.get_running_loop().time() + LONG_S)


async def many(asking: Client, count: int) -> list[Any]:
    return await asyncio.gather(*(post(asking, n) for n in range(count)))


async def test_a_dead_server_is_not_asked_again_and_its_failure_is_told():
    dead = Scripted("dead", BROKEN)
    asking = client(dead, concurrency=1, reset_s=0.3)
    found = await many(asking, 20)
    assert {failure.status for failure in found} == {ScoreStatus.ERROR}
    refused = [failure for failure in found if "not asked" in failure.detail]
    # Three opened the circuit; while the others waited, one or two of them probed it.
    assert 3 < len(dead.seen) <= 5 and len(refused) == 20 - len(dead.seen) == asking.counters["refused"]
    assert all("it is broken" in failure.detail and failure.final for failure in refused)


async def test_a_server_that_never_answers_is_refused_as_a_timeout_and_costs_its_callers_no_deadline():
    silent = Scripted("silent", held=asyncio.Event())
    asking = client(silent, concurrency=4, request_deadline_s=0.1, reset_s=LONG_S)
    found = asyncio.gather(*(asking.post({}, asyncio.get_running_loop().time() + 3.0) for _ in range(40)))
    assert {failure.status for failure in await found} == {ScoreStatus.TIMEOUT}
    assert len(silent.seen) == 4, "those that were there before it was known"


async def test_a_server_that_recovers_answers_all_who_waited_for_its_probe():
    server = Scripted("server", BROKEN)
    asking = client(server, failures=3, reset_s=0.3)
    assert {failure.detail for failure in await many(asking, 3)} == {"it is broken"}
    server.reply = GOOD
    assert await many(asking, 20) == [GOOD.answer] * 20
    assert len(server.seen) == 23


async def test_while_one_probes_the_others_wait():
    server = Scripted("server", BROKEN)
    asking = client(server, failures=1, reset_s=0.2)
    await post(asking)
    server.reply, server.held = GOOD, asyncio.Event()
    waiting = asyncio.create_task(many(asking, 10))
    while len(server.seen) < 2:
        await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(server.seen) == 2, "one probe"
    server.held.set()
    assert await waiting == [GOOD.answer] * 10


async def test_a_probe_that_is_given_up_leaves_the_next_one_to_another():
    server = Scripted("server", BROKEN)
    asking = client(server, failures=1, reset_s=0.05)
    await post(asking)
    server.reply, server.held = GOOD, asyncio.Event()
    probe = asyncio.create_task(post(asking))
    while len(server.seen) < 2:
        await asyncio.sleep(0.01)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    server.held.set()
    assert await post(asking) == GOOD.answer


async def test_what_a_broken_server_was_asked_another_answers():
    broken, sound = Scripted("broken", BROKEN), Scripted("sound")
    asking = client(broken, sound, retries=3)
    assert await many(asking, 30) == [GOOD.answer] * 30
    assert len(broken.seen) <= 3 + 8, "its failures in a row, and who was there already"
    assert "refused" not in asking.counters


async def test_requests_are_spread_by_load():
    servers = [Scripted(name, held=asyncio.Event()) for name in "abcd"]
    asking = client(*servers)
    found = asyncio.create_task(many(asking, 8))
    while sum(len(server.seen) for server in servers) < 8:
        await asyncio.sleep(0.01)
    assert [len(server.seen) for server in servers] == [2, 2, 2, 2]
    for server in servers:
        assert server.held is not None
        server.held.set()
    await found


@pytest.mark.parametrize(("status", "is_sound"), [(400, True), (404, True), (429, True), (503, True), (500, False)])
async def test_only_what_a_broken_server_answers_counts_against_it(status: int, is_sound: bool):
    seen = Counter[int]()

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen[status] += 1
        return web.Response(status=status)

    async with serving(handler) as server:
        settings = EndpointSettings(url=server.url, model="m", retries=0, breaker_failures=2, breaker_reset_s=LONG_S)
        asking = settings.client("endpoint")
        for _ in range(4):
            patience_s = LONG_S if is_sound or seen[status] < 2 else 0.1
            answer = await asking.post(settings.body("2 + 2?"), asyncio.get_running_loop().time() + patience_s)
            assert isinstance(answer, Failure)
        await asking.close()
    assert seen[status] == (4 if is_sound else 2)


async def test_of_several_addresses_the_dead_one_costs_nothing():
    async with serving(replies("fine")) as server:
        settings = EndpointSettings(url=["http://127.0.0.1:1/v1", server.url], model="m", retries=2, backoff_s=0.001)
        settings.check("endpoint")
        asking = settings.client("endpoint")
        until = asyncio.get_running_loop().time() + LONG_S
        found = await asyncio.gather(*(asking.post(settings.body(str(n)), until) for n in range(30)))
        await asking.close()
    assert found == [completion("fine")] * 30
    assert len(server.bodies) == 30


async def test_an_address_where_nobody_listens_is_tried_a_few_times_and_then_refused():
    settings = EndpointSettings(
        url="http://127.0.0.1:1/v1", model="m", retries=0, breaker_failures=3, breaker_reset_s=0.2, concurrency=1
    )
    asking = settings.client("endpoint")
    until = asyncio.get_running_loop().time() + LONG_S
    found = await asyncio.gather(*(asking.post(settings.body(str(n)), until) for n in range(40)))
    await asking.close()
    assert {failure.status for failure in found if isinstance(failure, Failure)} == {ScoreStatus.ERROR}
    assert asking.counters["requests"] <= 5
    assert asking.counters["requests"] + asking.counters["refused"] == 40


async def test_a_member_that_joins_is_asked_and_one_that_left_is_not():
    routes, numbers = Routes("servers", failures=3, reset_s=0.1), itertools.count()
    limits = Limits(concurrency=8, requests_per_s=None, request_deadline_s=LONG_S, retries=0, backoff_s=0.0)
    asking, first, second = Client(routes, limits), Scripted("first"), Scripted("second")
    waiting = asyncio.create_task(post(asking, next(numbers)))
    await asyncio.sleep(0)
    routes.join(first)
    assert await waiting == GOOD.answer
    routes.join(second)
    routes.leave("first")
    await post(asking, next(numbers))
    assert (first.seen, second.seen) == ([{"n": 0}], [{"n": 1}])

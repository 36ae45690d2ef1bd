"""The endpoint annotator against servers in this process that are overloaded, broken or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from typing import Any

import pytest
from aiohttp import web
from annotator_scene import HELPFUL, KEY, WALL, ask, endpoint, one_label
from endpoint_server import Handler, completion, replies, serving

from buffers.scores import ScoreStatus
from rewards.endpoints.http import MAX_RESPONSE_BYTES
from rewards.intrinsic.annotators.endpoint import KEPT_CHARACTERS


def failing(first: int, then: Handler, status: int = 500, **headers: str) -> Handler:
    """Return a handler that answers `status` so many times, and does as `then` says after that."""
    count = 0

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal count
        count += 1
        return (
            web.Response(status=status, text="busy", headers=headers) if count <= first else await then(request, body)
        )

    return handler


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_a_passing_failure_is_tried_again(status: int):
    async with serving(failing(2, replies(HELPFUL), status)) as server, endpoint(server.url, retries=2) as annotator:
        (label,) = await annotator.annotate([KEY])
    assert label.value == 1.0
    assert annotator.stats()["retries"] == 2 and annotator.stats()["failed_requests"] == 2


@pytest.mark.parametrize("status", [500, 400, 401, 404, 422, 301, 204])
async def test_a_failure_that_stays_is_an_error_that_names_it(status: int):
    label = await one_label(failing(10**6, replies(HELPFUL), status, Location="/v1/chat/completions"))
    assert (label.status, label.value) == (ScoreStatus.ERROR, None)
    assert f"HTTP {status}" in label.detail


@pytest.mark.parametrize(("status", "requests"), [(500, 4), (429, 4), (400, 1), (301, 1)])
async def test_only_what_may_pass_is_tried_again(status: int, requests: int):
    handler = failing(10**6, replies(HELPFUL), status, Location="/elsewhere")
    async with serving(handler) as server, endpoint(server.url, retries=3) as annotator:
        await annotator.annotate([KEY])
    assert server.paths == ["/v1/chat/completions"] * requests  # a redirect is not followed


async def test_retry_after_holds_back_every_request():
    times: list[float] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.json_response(completion(HELPFUL))

    labels = await ask(handler, [KEY] * 3, concurrency=1)
    assert [label.value for label in labels] == [1.0] * 3
    assert min(times[1:]) - times[0] >= 0.95


async def test_a_retry_after_beyond_the_deadline_is_a_timeout_by_the_deadline():
    handler = failing(10**6, replies(HELPFUL), 429, **{"Retry-After": "86400"})
    labels = await ask(handler, [KEY, WALL, KEY], concurrency=2, deadline_s=0.3)
    assert [label.status for label in labels] == [ScoreStatus.TIMEOUT] * 3
    assert sum("HTTP 429" in label.detail for label in labels) == 2
    assert sum("never asked" in label.detail for label in labels) == 1


async def test_a_server_that_hangs_costs_the_request_deadline_and_then_a_timeout():
    release = asyncio.Event()

    async def handler(request: web.Request, body: dict[str, Any]) -> web.Response:
        await release.wait()
        return web.Response()

    async with serving(handler) as server, endpoint(server.url, request_deadline_s=0.05) as annotator:
        labels = await annotator.annotate([KEY, WALL])
        release.set()
    assert [label.status for label in labels] == [ScoreStatus.TIMEOUT] * 2
    assert len(server.bodies) == 4  # each was tried twice
    assert all("no reply within 0.05 s" in label.detail for label in labels)


async def test_what_hangs_in_a_batch_does_not_take_the_others_along():
    release = asyncio.Event()

    async def handler(request: web.Request, body: dict[str, Any]) -> web.Response:
        if "red key" in body["messages"][0]["content"]:
            await release.wait()
        return web.json_response(completion("<label>CEDAR</label>"))

    async with serving(handler) as server, endpoint(server.url, deadline_s=0.5) as annotator:
        labels = await annotator.annotate([WALL, KEY, WALL])
        release.set()
    assert [label.status.value for label in labels] == ["ok", "timeout", "ok"]


async def test_a_drip_of_bytes_does_not_outlast_the_deadline():
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.01)
        return response

    assert (await one_label(handler, deadline_s=0.3)).status is ScoreStatus.TIMEOUT


async def test_a_connection_closed_inside_the_body_is_an_error():
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(json.dumps(completion(HELPFUL)).encode())
        assert request.transport is not None
        request.transport.close()
        return response

    label = await one_label(handler)
    assert label.status is ScoreStatus.ERROR and "Payload" in label.detail


async def test_a_server_that_is_not_there_is_an_error():
    async with serving(replies(HELPFUL)) as server:
        url = server.url
    async with endpoint(url) as annotator:
        labels = await annotator.annotate([KEY, WALL])
    assert [label.status for label in labels] == [ScoreStatus.ERROR] * 2


async def test_a_server_that_comes_back_is_used_again():
    handler = failing(2, replies(HELPFUL))
    async with serving(handler) as server, endpoint(server.url) as annotator:
        first, second = await annotator.annotate([KEY]), await annotator.annotate([KEY])
    assert [first[0].status.value, second[0].status.value] == ["error", "ok"]


def raw(body: bytes) -> Handler:
    async def handler(request: web.Request, _: dict[str, Any]) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return handler


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"choices": [{"message": {"content": "<label>MAPLE</label>"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"[]",
        b"null",
        b"{}",
        b'{"choices": null}',
        b'{"choices": {}}',
        b'{"choices": ["<label>MAPLE</label>"]}',
        b'{"choices": [{"message": {"content": 1}}]}',
        b'{"choices": [{"message": {"content": ["<label>MAPLE</label>"]}}]}',
        b'{"error": {"message": "overloaded"}}',
    ],
)
async def test_an_answer_of_another_form_is_an_error(body: bytes):
    label = await one_label(raw(body))
    assert (label.status, label.value) == (ScoreStatus.ERROR, None) and label.detail


@pytest.mark.parametrize("count", [0, 2])
async def test_another_number_of_choices_is_an_error(count: int):
    choices = completion(HELPFUL)["choices"] * count
    label = await one_label(raw(json.dumps({"choices": choices}).encode()))
    assert label.status is ScoreStatus.ERROR and f"{count} choices" in label.detail


async def test_ten_megabytes_of_text_are_not_read():
    sent = 0

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(160):
                await response.write(b" " * 65536)
                sent += 65536
                await asyncio.sleep(0)
        return response

    async with serving(handler) as server, endpoint(server.url) as annotator:
        (label,) = await annotator.annotate([KEY])
    assert label.status is ScoreStatus.ERROR and str(MAX_RESPONSE_BYTES) in label.detail
    assert len(server.bodies) == 1 and sent < 160 * 65536


async def test_a_compressed_reply_is_not_unfolded():
    async def handler(request: web.Request, body: dict[str, Any]) -> web.Response:
        bomb = gzip.compress(json.dumps(completion(HELPFUL + " " * 900_000)).encode())
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with serving(handler) as server, endpoint(server.url) as annotator:
        (label,) = await annotator.annotate([KEY])
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert label.status is ScoreStatus.ERROR and "no JSON" in label.detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "I would rather not say.",
        "MAPLE",
        "<label>MAPLE and CEDAR</label>",
        "<label>MAPLE</label>" * 2 + "<label>",
    ],
)
async def test_a_reply_without_a_readable_label_is_abstained(text: str | None):
    label = await one_label(replies(text))
    assert (label.status, label.value, label.reply) == (ScoreStatus.ABSTAINED, None, text or "")


async def test_a_long_reply_is_kept_from_its_end_and_storable():
    label = await one_label(replies("<label>CEDAR</label>" + "x" * 50_000 + "\ud800" + HELPFUL))
    assert label.value == 1.0 and len(label.reply) == KEPT_CHARACTERS and label.reply.endswith(HELPFUL)
    label.reply.encode()


async def test_an_interrupted_call_leaves_nothing_behind():
    arrived, release = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request, body: dict[str, Any]) -> web.Response:
        arrived.set()
        await release.wait()
        return web.Response()

    async with serving(handler) as server, endpoint(server.url) as annotator:
        call = asyncio.create_task(annotator.annotate([KEY] * 5))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()

"""Annotators die, stop and are lied to by their endpoint: nothing is lost, labelled twice, or given a value it has not.

The reward learner and a scorer live here; annotators are processes on Ray, and their endpoint is a real server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors import ray_adapter
from actors.member import MemberSpec
from actors.ray_adapter import RayHandle
from buffers.scores import Sample
from buffers.segments import read_stream
from buffers.tables import LABELS
from buffers.transport import LocalHandle
from configs.cluster import ClusterConfig
from configs.decision import AnnotationConfig, IntrinsicConfig
from configs.registry import Deferred
from configs.schema import RunConfig
from rewards.intrinsic.learner import RewardLearner, build
from rewards.intrinsic.member import build as build_scorer
from rewards.intrinsic.met import Met
from tests.faults.live_run import ROOT

sys.path.append(str(ROOT / "tests" / "unit"))
from endpoint_server import EndpointServer, Handler, completion, serving

pytestmark = [pytest.mark.fault, pytest.mark.integration]

DEADLINE_S = 60.0
RULES = [{"match": "key", "value": 1}]
KEEPER = """
from actors import ray_adapter
from configs.cluster import ClusterConfig
print(ray_adapter.connect(ClusterConfig(), "keeper"), flush=True)
input()
"""
KEYS = tuple(f"you pick up key {n}" for n in range(6))
WALLS = tuple(f"you bump into wall {n}" for n in range(4))


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """Join Ray; a process of its own starts it, since Ray does not wait for the processes that it ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KEEPER], cwd=ROOT, **pipes) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        ray_adapter.connect(ClusterConfig(address=keeper.stdout.readline().strip()), "annotators")
        yield
        ray_adapter.leave()
        keeper.stdin.write("\n")


def config(annotator: dict[str, Any], **annotation: Any) -> RunConfig:
    settings = {"batch_size": 4, "deadline_s": 30.0, "held_out_fraction": 0.0, **annotation}
    exploration = IntrinsicConfig(annotation=AnnotationConfig(annotator=annotator, **settings))
    # Without a label a caption scores nothing at all, so that a value can only come from a label.
    return RunConfig(intrinsic="retrieval", intrinsics={"retrieval": {"unlabelled": None}}, exploration=exploration)


def scripted(**arguments: Any) -> dict[str, Any]:
    return {"target": "scripted", "rules": RULES, **arguments}


def endpoint(server: EndpointServer, **arguments: Any) -> dict[str, Any]:
    usual = {"model": "judge", "template": "minigrid_classification", "goal": "get the key", "retries": 1}
    return {"target": "endpoint", "url": server.url, **usual, "backoff_s": 0.01, **arguments}


class Scene:
    """A reward learner here, and annotators in processes of their own."""

    def __init__(self, learner: RewardLearner, settings: RunConfig, folder: Path) -> None:
        self.learner, self._settings, self._folder = learner, settings, folder
        self._handles: list[RayHandle] = []

    async def annotator(self, section: dict[str, Any] | None = None) -> tuple[RayHandle, int]:
        """Start one and let it join; return its handle and its process."""
        annotation = self._settings.exploration.annotation
        if section is not None:
            annotation = config(section).exploration.annotation
        factory = Deferred("rewards.intrinsic.annotators.member:build", (annotation, "annotator", 0))
        handle = ray_adapter.spawn(MemberSpec(pool="annotator", factory=factory), f"annotator-{len(self._handles)}")
        self._handles.append(handle)
        pid = await handle.build(DEADLINE_S)
        self.learner.attach("annotator", handle)
        return handle, pid

    def meet(self, *captions: str) -> None:
        self.learner.submit(Met(captions=dict.fromkeys(captions, 1)))

    async def until(self, what: str, condition: Callable[[dict[str, float]], object]) -> None:
        """Wait for a state of the learner's figures."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition(self.learner.stats()):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"never came: {what}; {self.learner.ping()}")

    def answers(self) -> list[dict[str, Any]]:
        """Return every answer in the log on disk."""
        self.learner._store.flush()
        rows: list[dict[str, Any]] = read_stream(self._folder / "intrinsic", "labels", LABELS).to_pylist()
        return rows

    def labels(self) -> dict[str, float]:
        """Return the labels in the log; fail if an item has two."""
        found = [(row["item"][0], row["value"]) for row in self.answers() if row["status"] == "ok"]
        assert max(Counter(item for item, _ in found).values(), default=1) == 1, "labelled twice"
        return dict(found)

    def end(self) -> None:
        for handle in self._handles:
            handle.kill()


@asynccontextmanager
async def scene(settings: RunConfig, folder: Path) -> AsyncIterator[Scene]:
    learner = build(settings, folder)
    here = Scene(learner, settings, folder)
    try:
        yield here
    finally:
        here.end()
        await learner.close()


async def test_an_annotator_killed_with_labels_in_flight_loses_none_and_repeats_none(tmp_path: Path):
    async with scene(config(scripted()), tmp_path) as here:
        handle, pid = await here.annotator(scripted(delay_s=3600.0))
        here.meet(*KEYS)
        await here.until("items in flight", lambda figures: figures["in_flight"] == 4)
        os.kill(pid, signal.SIGKILL)
        await here.until("word of the death", lambda figures: figures["annotator_failures"] == 1)
        assert here.answers() == []
        here.learner.detach("annotator", handle.name)
        await here.annotator()
        await here.until("all labels", lambda figures: figures["labels"] == len(KEYS))
        assert here.labels() == dict.fromkeys(KEYS, 1.0)
        assert here.learner.stats()["duplicates"] == here.learner.stats()["in_flight"] == 0


async def test_the_late_answers_of_a_stopped_annotator_count_for_nothing(tmp_path: Path):
    async with scene(config(scripted()), tmp_path) as here:
        handle, pid = await here.annotator(scripted(delay_s=1.0))
        here.meet(*KEYS[:4])
        await here.until("items in flight", lambda figures: figures["in_flight"] == 4)
        os.kill(pid, signal.SIGSTOP)
        here.learner.detach("annotator", handle.name)  # as the supervisor does, when heartbeats stay away
        await here.annotator()
        await here.until("all labels", lambda figures: figures["labels"] == 4)
        os.kill(pid, signal.SIGCONT)
        stats = await handle.call("ping", deadline_s=DEADLINE_S, awaiting="a sign of life")
        while not stats["ok"]:
            await asyncio.sleep(0.05)
            stats = await handle.call("ping", deadline_s=DEADLINE_S, awaiting="its late answers")
        assert here.labels() == dict.fromkeys(KEYS[:4], 1.0)
        assert here.learner.stats()["duplicates"] == 0


def judging(fault: Callable[[], Handler | None]) -> Handler:
    """Return a server that knows the right labels, and does as `fault` says while that returns something."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if (wrong := fault()) is not None:
            return await wrong(request, body)
        asked = body["messages"][0]["content"].rpartition("<event>")[2]
        return web.json_response(completion(f"<label>{'MAPLE' if ' key ' in asked else 'CEDAR'}</label>"))

    return handler


async def fails(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=500, text="<label>MAPLE</label>")


async def hangs(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(3600.0)
    return web.Response()


async def hangs_up(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def lies(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text='{"choices": [{"message": {"content": "<label>MAPLE</label>"')


async def floods(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(body=b'{"choices": "' + b"MAPLE " * 2_000_000 + b'"}')


FAULTS = [fails, hangs, hangs_up, lies, floods]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_while_an_endpoint_fails_nothing_gets_a_value_and_afterwards_all_do(tmp_path: Path, fault: Handler):
    is_broken = True
    async with serving(judging(lambda: fault if is_broken else None)) as server:
        settings = config(endpoint(server, request_deadline_s=0.2))
        async with scene(settings, tmp_path) as here:
            await here.annotator()
            here.meet(*KEYS[:2], *WALLS[:2])
            await here.until("a failure", lambda figures: figures["annotator_failures"] >= 1)
            assert here.labels() == {} and here.learner.stats()["labels"] == 0
            assert {row["status"] for row in here.answers()} <= {"error", "timeout"}
            is_broken = False
            await here.until("all labels", lambda figures: figures["labels"] == 4)
            assert here.labels() == dict.fromkeys(KEYS[:2], 1.0) | dict.fromkeys(WALLS[:2], 0.0)


async def test_one_caption_at_which_the_endpoint_hangs_keeps_no_other_from_its_label(tmp_path: Path):
    poison = "you pick up poison"

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_poison = poison in body["messages"][0]["content"]
        return await (hangs if is_poison else judging(lambda: None))(request, body)

    async with serving(handler) as server:
        settings = config(endpoint(server, request_deadline_s=0.1), batch_size=2)
        async with scene(settings, tmp_path) as here:
            await here.annotator()
            here.meet(*KEYS, poison)
            await here.until("the others' labels", lambda figures: figures["labels"] == len(KEYS))
            assert here.labels() == dict.fromkeys(KEYS, 1.0)
            assert "timeout" in {row["status"] for row in here.answers() if row["item"] == [poison]}


async def test_failures_are_not_taken_from_the_budget_and_nothing_is_asked_beyond_it(tmp_path: Path):
    faults = [fails] * 3
    async with serving(judging(lambda: faults.pop() if faults else None)) as server:
        settings = config(endpoint(server, retries=0), budget=5, batch_size=2)
        async with scene(settings, tmp_path) as here:
            for _ in range(2):
                await here.annotator()
            here.meet(*KEYS, *WALLS)
            await here.until("the budget's labels", lambda figures: figures["labels"] == 5)
            asked = len(server.bodies)
            here.meet("you pick up another key")
            await asyncio.sleep(0.3)
            assert (len(here.labels()), len(server.bodies), asked) == (5, asked, 5 + 3)


async def test_replies_reach_the_rewards_that_scorers_give(tmp_path: Path):
    async with serving(judging(lambda: None)) as server:
        settings = config(endpoint(server))
        async with scene(settings, tmp_path) as here:
            scorer = await build_scorer(settings, "intrinsic")
            here.learner.attach("reward.intrinsic", LocalHandle("reward.intrinsic-0", scorer))
            scorer.attach("intrinsic_learner", LocalHandle("intrinsic_learner-0", here.learner))
            await here.annotator()
            sample = Sample(id="s", group="g", prompt="", completion="", captions=(KEYS[0], WALLS[0]))
            async with asyncio.timeout(DEADLINE_S):
                while (scores := await scorer.score([sample]))[0].vector != (1.0, 0.0):
                    assert 0.0 not in scores[0].vector[:1], "a key was worth 0 before it had a label"
                    await asyncio.sleep(0.02)
            await scorer.close()

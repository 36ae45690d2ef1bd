"""Fragments in the stream: which figures come of them, and what their host stores and asks in which order."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fragment_scene import SPEC, Lanes, Novelty, config, fragment, graph

from actors.listener import RunListener
from actors.readout import bottleneck, digits, headlines
from actors.view import QuietView
from buffers.batch_metrics import fragment_metrics
from buffers.batch_scoring import BatchScoring
from buffers.fragment import Episode, fragments_to_table
from buffers.host import BufferHost
from buffers.intake import Intake
from buffers.messages import Reply
from buffers.records.metrics import read_metrics
from buffers.score_tally import ScoreTally
from buffers.trajectory import Unit
from buffers.transport import HandleSet, LocalHandle
from configs.errors import DeadlineExceeded
from learners.observing import Observer
from learners.summary import _evaluations

# -- figures ------------------------------------------------------------------------------------


def test_episode_metrics_describe_the_episodes_that_ended(tmp_path: Path):
    scene = Lanes(tmp_path / "run")
    wired = graph(config(), Novelty())
    ended = [
        Episode(extrinsic_return=9.0, length=10, success=True),
        Episode(extrinsic_return=1.0, length=2, success=False),
    ]
    scene.bring(wired, {"episodes": ended}, {"episodes": [Episode(extrinsic_return=2.0, length=6)]}, {})
    metrics = fragment_metrics(scene.composed(), scene.buffer.payloads)
    assert {name: metrics[f"episode/{name}"] for name in ("ended", "return_mean", "len_mean", "success_rate")} == {
        "ended": 3.0,
        "return_mean": 4.0,
        "len_mean": 6.0,
        "success_rate": 0.5,
    }
    assert not {"response_length/mean", "reward/frac_zero_std"} & metrics.keys()
    scene.close()


def test_without_an_ended_episode_there_is_no_figure_rather_than_0(tmp_path: Path):
    scene = Lanes(tmp_path / "run")
    scene.bring(graph(config(), Novelty()), {}, {}, {})
    metrics = fragment_metrics(scene.composed(), scene.buffer.payloads)
    assert {name for name in metrics if name.startswith("episode/")} == {"episode/ended"}
    scene.close()


def test_an_evaluation_of_episodes_is_logged_without_what_nothing_defines(tmp_path: Path):
    listener = RunListener(config(), tmp_path, QuietView())
    listener.evaluation(3, {"return_mean": 20.0, "len_mean": 7.0, "success_rate": math.nan, "version": 3.0})
    rows = read_metrics(tmp_path).to_pylist()
    assert {row["name"]: row["value"] for row in rows} == {
        "eval/held_out/return_mean": 20.0,
        "eval/held_out/len_mean": 7.0,
    }
    listener.close()


def test_a_summary_is_json_though_success_is_not_defined():
    evaluated = _evaluations({0: {"return_mean": 1.0, "success_rate": math.nan}})
    assert json.loads(json.dumps(evaluated, allow_nan=False))["after"] == {"return_mean": 1.0, "success_rate": None}


def test_headlines_are_what_the_evaluation_is_about():
    assert headlines({"accuracy": 0.5, "reward": 2.0}) == {"accuracy": "0.500"}
    assert headlines({"return_mean": 187.25, "success_rate": 0.5}) == {"return": "187", "success": "0.500"}
    assert headlines({"return_mean": -3.5, "success_rate": None}) == {"return": "-3.50"}
    assert [digits(v) for v in (0.0, 0.01234, 9221.4)] == ["0.00", "0.0123", "9,221"]


def test_a_reward_that_holds_up_batches_is_the_bottleneck():
    waiting = {"idle/learner": 0.6, "time/wait_for_batch": 2.0, "rewards/intrinsic/batch_s": 1.5}
    assert bottleneck(waiting) == "learner waiting 60 % on reward `intrinsic`"
    assert bottleneck(waiting | {"rewards/intrinsic/batch_s": 0.5}) == "learner waiting 60 % on rollout"


# -- the host and what it polls -----------------------------------------------------------------


class SlowLog:
    """A disk that has not yet taken what it was given."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []

    def record_scores(self, scores: object, update_version: int | None = None) -> Future[None]:
        self.futures.append(Future())
        return self.futures[-1]

    def append(self, table: pa.Table) -> Future[None]:
        return Future()


async def test_the_host_asks_once_and_commits_only_what_is_on_disk(tmp_path: Path):
    scene, model, log = Lanes(tmp_path / "run"), Novelty(), SlowLog()
    wired = graph(config(), model)
    await asyncio.to_thread(scene.bring, wired, {}, {}, {})
    intake = Intake(
        scene.buffer, workers=HandleSet("rollout"), scorer=wired, payload_log=log, score_log=log,
        changed=lambda: None, max_in_flight=3, exchange_wait_s=0.1, call_deadline_s=0.1,
    )  # fmt: skip
    host = BufferHost(
        scene.buffer, intake=intake, pools={}, ledger=scene.ledger, tally=ScoreTally(scene.ledger),
        payload_log=scene.payload_log,
        scoring=BatchScoring(wired, payloads=scene.buffer.payloads, log=log), changed=asyncio.Event(), cursor={},
        measure=lambda batch: {}, call_deadline_s=0.05,
    )  # fmt: skip
    tickets = [await host.next_batch(0, 5.0) for _ in range(3)]
    assert len(model.seen) == 3 and len(log.futures) == 1 and {t.version for t in tickets} == {0}
    assert host.batch_table(0)["intrinsic_rewards"].null_count == 0
    with pytest.raises(DeadlineExceeded, match="scores of batch 0 are not on disk"):
        await host.commit(0)
    assert scene.buffer.version == 0, "nothing is trained whose rewards a crash would lose"
    log.futures[0].set_result(None)
    assert (await host.commit(0), await host.commit(0)) == (1, 1)
    scene.close()


class OrderLog(SlowLog):
    """Notes what it is given to store, and stores it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def append(self, table: pa.Table) -> Future[None]:
        self.ids += table["id"].to_pylist()
        stored: Future[None] = Future()
        stored.set_result(None)
        return stored


async def test_payloads_are_stored_in_the_order_of_their_coming(tmp_path: Path):
    scene, log = Lanes(tmp_path / "run"), OrderLog()
    intake = Intake(
        scene.buffer, workers=HandleSet("rollout"), scorer=graph(config(), Novelty()), payload_log=log, score_log=log,
        changed=lambda: None, max_in_flight=3, exchange_wait_s=0.1, call_deadline_s=20.0,
    )  # fmt: skip
    units, worker = scene.buffer.lease("w", 2), LocalHandle("w", None)
    first = scene.buffer._member(units[0].slot)
    assert first is not None
    first.admitted = admitted = Future()  # its admission takes longer than that of the second one
    for unit in units:
        table = fragments_to_table(SPEC, [fragment(unit)])
        intake._take(worker, Reply(table=table, failures=(), capacity=0, in_flight=0))
    await asyncio.sleep(0.05)
    assert log.ids == []
    admitted.set_result(None)
    async with asyncio.timeout(20.0):
        while len(log.ids) < 2:
            await asyncio.sleep(0.01)
    assert log.ids == [f"{unit.slot}.0.0" for unit in units]
    await intake.close()
    scene.close()


class Newcomer:
    """A worker that is asked for its first exchange."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def exchange(self, sequence: int, units: Sequence[Unit], wait_s: float) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


async def test_no_worker_is_given_lanes_before_the_others_of_the_start_are_there(tmp_path: Path):
    scene, log, workers = Lanes(tmp_path / "run"), SlowLog(), HandleSet("rollout")
    intake = Intake(
        scene.buffer, workers=workers, scorer=graph(config(), Novelty()), payload_log=log, score_log=log,
        changed=lambda: None, max_in_flight=3, exchange_wait_s=0.1, call_deadline_s=20.0,
    )  # fmt: skip
    early, late, joining = Newcomer(), Newcomer(), Newcomer()
    workers.attach(LocalHandle("rollout-0", early))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not early.asked.is_set()
    workers.attach(LocalHandle("rollout-1", late))
    intake.start()
    workers.attach(LocalHandle("rollout-2", joining))
    async with asyncio.timeout(20.0):
        await asyncio.gather(early.asked.wait(), late.asked.wait(), joining.asked.wait())
    await intake.close()
    scene.close()


class Service:
    def __init__(self) -> None:
        self.asked, self.open, self.broken = 0, asyncio.Event(), False

    async def stats(self) -> dict[str, float]:
        self.asked += 1
        await self.open.wait()
        if self.broken:
            raise RuntimeError("out of order")
        return {"labels": float(self.asked)}


async def test_figures_are_polled_without_waiting_and_outlive_their_service():
    service = Service()
    handle = LocalHandle("learner-0", service)

    async def services() -> list[LocalHandle]:
        return [handle]

    observer = Observer(services, prefix="intrinsic/", deadline_s=5.0)
    assert observer.poll() == {} == observer.poll(), "asked, not waited for"
    service.open.set()
    assert await observer.last() == {"intrinsic/labels": 2.0}, "asked for now"
    service.broken = True
    assert await observer.last() == {"intrinsic/labels": 2.0}
    handle.kill()
    assert await observer.last() == {"intrinsic/labels": 2.0}


async def test_the_last_figures_do_not_change_how_often_is_asked():
    service = Service()
    service.open.set()

    async def services() -> list[LocalHandle]:
        return [LocalHandle("learner-0", service)]

    observer = Observer(services, prefix="", deadline_s=5.0, interval_s=3600.0)
    assert await observer.last() == {"labels": 1.0} and await observer.last() == {"labels": 2.0}
    for _ in range(20):
        observer.poll()
        await asyncio.sleep(0)
    assert service.asked == 2

"""Fragments in the stream: what rewards see of them, what the learner is handed, and which figures come of them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from stream_scene import Scene, trajectory

import rewards
from actors.listener import RunListener
from actors.readout import bottleneck, digits, headlines
from actors.view import QuietView
from buffers.batch_metrics import fragment_metrics
from buffers.batch_scoring import BatchScoring
from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from buffers.fragment import Episode, Fragment, fragments_to_table, read_fragments
from buffers.host import BufferHost
from buffers.intake import Intake
from buffers.records.metrics import MetricsWriter, read_metrics
from buffers.samples import to_samples
from buffers.schema import to_table, with_rewards
from buffers.scores import ENVIRONMENT, INTRINSIC, Sample, Score, ScoreStatus, component_names
from buffers.stream import Batch
from buffers.trajectory import Unit
from buffers.transport import HandleSet, LocalHandle
from configs.decision import EnvironmentConfig, IntrinsicConfig
from configs.errors import ConfigError, DataError, DeadlineExceeded
from configs.schema import RewardComponentConfig, RewardsConfig, RunConfig
from learners.observing import Observer
from learners.summary import _evaluations

SPEC = EnvironmentSpec("maze", {"o": ArraySpec((2,), "float32")}, ActionSpec("discrete", (3,)))
STEPS = 4


def fragment(unit: Unit, *, reward: float = 1.0, episodes: Sequence[Episode] = (), captions: bool = True) -> Fragment:
    lane = unit.slot.task
    return Fragment(
        slot=unit.slot,
        attempt=unit.attempt,
        observations={"o": np.full((STEPS + 1, 2), lane, np.float32)},
        actions=np.zeros((STEPS, 1), np.float32),
        logprobs=np.full(STEPS, -1.0, np.float32),
        versions=[(0, STEPS)],
        rewards=np.full(STEPS, reward, np.float32),
        terminated=np.zeros(STEPS, np.bool_),
        truncated=np.zeros(STEPS, np.bool_),
        final_observations={},
        captions=[f"lane {lane} step {t}" for t in range(STEPS)] if captions else [],
        episodes=list(episodes),
    )


class Lanes(Scene):
    """The buffer of a decision run: groups of one fragment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, groups=3, members=1)

    def bring(self, graph: Any, *made: dict[str, Any]) -> list[str]:
        """Deliver one fragment for each of `made` and score them at arrival; return their ids."""
        units = self.buffer.lease("w", len(made))
        table = fragments_to_table(SPEC, [fragment(u, **m) for u, m in zip(units, made, strict=True)])
        kept = self.buffer.accept(table)
        assert kept is not None
        self.buffer.generated(kept["id"].to_pylist())
        verdicts = asyncio.run(graph.score(to_samples(kept, graph.needs)))
        ids: list[str] = kept["id"].to_pylist()
        self.buffer.scored(dict(zip(ids, verdicts, strict=True)))
        return ids

    def composed(self) -> Batch:
        batch = self.buffer.compose()
        assert batch is not None, self.buffer.awaiting()
        return batch


class Novelty:
    """Gives every step its ordinal, and nothing to a lane named in `silent`."""

    def __init__(self, *silent: str, steps: int = STEPS) -> None:
        self.silent, self.steps, self.seen = silent, steps, list[Sample]()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.seen += samples
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        if any(sample.captions[0].startswith(name) for name in self.silent):
            return Score.invalid(ScoreStatus.TIMEOUT, "late", component=INTRINSIC)
        vector = tuple(float(t) for t in range(self.steps))
        return Score(value=sum(vector), vector=vector, component=INTRINSIC)


def config(scored_at: str = "learner", **components: dict[str, Any]) -> RunConfig:
    return RunConfig(
        environment=EnvironmentConfig(backend={"target": "gymnasium", "id": "CartPole-v1"}, fragment_length=STEPS),
        intrinsic="counts",
        exploration=IntrinsicConfig(scored_at=scored_at, intrinsic_coefficient=0.25),
        rewards=RewardsConfig(components={n: RewardComponentConfig(component=c) for n, c in components.items()}),
    )


def graph(settings: RunConfig, model: object) -> Any:
    pools = {name: HandleSet(name) for name in component_names(settings) if name != ENVIRONMENT}
    pools[INTRINSIC].attach(LocalHandle("intrinsic-0", model))
    return rewards.build(settings, pools)


def scored(lanes: Scene, batch: Batch, wired: Any) -> Batch:
    service = BatchScoring(wired, payloads=lanes.buffer.payloads, log=lanes.ledger)
    return asyncio.run(service.scored(batch, 5.0))


# -- samples ------------------------------------------------------------------------------------


def test_a_fragment_is_a_sample_with_captions_and_observations_where_they_are_asked_for(tmp_path: Path):
    scene = Lanes(tmp_path / "run")
    unit = scene.buffer.lease("w", 1)[0]
    table = fragments_to_table(SPEC, [fragment(unit, reward=0.5)])
    (bare,) = to_samples(table)
    assert (bare.prompt, bare.completion, bare.tokens, bare.spans, bare.captions, bare.observations) == (
        *("", "", (), (), ()),
        b"",
    )
    assert (bare.num_tokens, bare.metadata["return"]) == (STEPS, 2.0)
    (full,) = to_samples(table, frozenset({"captions", "observations", "tokens"}))
    assert full.captions == tuple(f"lane 0 step {t}" for t in range(STEPS)) and full.tokens == ()
    assert SPEC.decode(full.observations, STEPS + 1)["o"].shape == (STEPS + 1, 2)
    (mute,) = to_samples(fragments_to_table(SPEC, [fragment(unit, captions=False)]), frozenset({"captions"}))
    assert mute.captions == ()
    scene.close()


def test_a_text_is_its_own_caption(tmp_path: Path):
    scene = Scene(tmp_path / "run")
    table = to_table([trajectory(scene.buffer.lease("w", 1)[0], [(0, 2)])])
    (sample,) = to_samples(table, frozenset({"captions", "observations"}))
    assert (sample.captions, sample.observations, sample.tokens) == (("1",), b"", ())
    scene.close()


# -- rewards ------------------------------------------------------------------------------------


def test_intrinsic_rewards_reach_the_learner_by_step_and_the_total_stays_the_environments(tmp_path: Path):
    scene, model = Lanes(tmp_path / "run"), Novelty("lane 1")
    wired = graph(config(), model)
    scene.bring(wired, {"reward": 1.0}, {"reward": 2.0}, {"reward": 3.0})
    assert model.seen == [], "scored when the batch is read"
    batch = scored(scene, scene.composed(), wired)
    table = scene.buffer.table(batch)
    assert table["reward"].to_pylist() == [4.0, 8.0, 12.0] and table["reward_valid"].to_pylist() == [True] * 3
    assert table["intrinsic_rewards"].to_pylist() == [[0.0, 1.0, 2.0, 3.0], None, [0.0, 1.0, 2.0, 3.0]]
    assert np.isnan(read_fragments(SPEC, table).intrinsic_rewards[1]).all(), "never 0"
    metrics = fragment_metrics(batch, scene.buffer.payloads)
    assert (metrics["rewards/intrinsic/invalid"], metrics["rewards/intrinsic/mean"]) == (1.0, 6.0)
    assert metrics["rewards/environment/mean"] == 8.0
    assert model.seen[0].observations, "whole samples are handed over"
    scene.close()


def test_scored_at_the_actor_they_are_the_same(tmp_path: Path):
    scene, model = Lanes(tmp_path / "run"), Novelty("lane 1")
    wired = graph(config("actor"), model)
    scene.bring(wired, {}, {}, {})
    assert len(model.seen) == 3
    batch = scored(scene, scene.composed(), wired)
    assert len(model.seen) == 3, "not again"
    intrinsic = scene.buffer.table(batch)["intrinsic_rewards"].to_pylist()
    assert intrinsic == [[0.0, 1.0, 2.0, 3.0], None, [0.0, 1.0, 2.0, 3.0]]
    scene.close()


def test_a_vector_of_another_length_is_refused_by_name(tmp_path: Path):
    scene = Lanes(tmp_path / "run")
    wired = graph(config(), Novelty(steps=3))
    ids = scene.bring(wired, {}, {}, {})
    with pytest.raises(DataError, match=f"{ids[0]}: the intrinsic score has 3 values for 4 steps"):
        scene.buffer.table(scored(scene, scene.composed(), wired))
    scene.close()


def test_texts_get_the_intrinsic_value_in_their_total():
    settings = config(right={"target": "numeric"})
    settings.environment = EnvironmentConfig()
    combine = rewards.build_combine(settings)
    scores = {"right": Score(value=1.0), INTRINSIC: Score(value=8.0, vector=(8.0,))}
    assert combine(scores).total == 1.0 + 0.25 * 8.0
    late = {"right": Score(value=1.0), INTRINSIC: Score.invalid(ScoreStatus.TIMEOUT, "late")}
    assert combine(late).total is None
    assert component_names(settings) == ["right", INTRINSIC]


def test_the_intrinsic_vector_of_a_text_stays_out_of_its_row(tmp_path: Path):
    scene = Scene(tmp_path / "run")
    table = to_table([trajectory(scene.buffer.lease("w", 1)[0], [(0, 2)])])
    assert with_rewards(table, [1.0], [(8.0,)])["intrinsic_rewards"].to_pylist() == [None]
    scene.close()


def test_evaluations_leave_the_intrinsic_reward_out():
    settings = config(right={"target": "numeric"})
    settings.environment = EnvironmentConfig()
    wired = rewards.build(settings, {"right": HandleSet("right")})
    assert wired.batch_components == () and list(wired._parts) == ["right"]


@pytest.mark.parametrize("name", [ENVIRONMENT, INTRINSIC])
def test_the_names_of_built_in_components_are_taken(name: str):
    settings = config(**{name: {"target": "numeric"}})
    with pytest.raises(ConfigError, match=f"rewards.components is '{name}'; it must be another name"):
        rewards.build(settings, {n: HandleSet(n) for n in (name, INTRINSIC)})


def test_a_fragment_without_a_finite_return_is_an_error_and_not_0():
    wired = graph(config(), Novelty())
    broken = Sample(id="a", group="g", prompt="", completion="", metadata={"return": math.nan})
    (verdict,) = asyncio.run(wired.score([broken]))
    assert (verdict.total, verdict.status) == (None, ScoreStatus.ERROR) and "return=nan" in verdict.detail


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
    writer = MetricsWriter(tmp_path, tensorboard=False, wandb_project=None, run_name="r", config={})
    listener = RunListener(writer, QuietView(), updates=5)
    listener.evaluation(3, {"return_mean": 20.0, "len_mean": 7.0, "success_rate": math.nan, "version": 3.0})
    rows = read_metrics(tmp_path).to_pylist()
    assert {row["name"]: row["value"] for row in rows} == {
        "eval/held_out/return_mean": 20.0,
        "eval/held_out/len_mean": 7.0,
    }
    writer.close()


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
        scene.buffer, intake=intake, pools={}, ledger=scene.ledger, payload_log=scene.payload_log,
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
    assert await observer.last() == {"intrinsic/labels": 1.0}
    service.broken = True
    assert await observer.last() == {"intrinsic/labels": 1.0}
    handle.kill()
    assert await observer.last() == {"intrinsic/labels": 1.0}

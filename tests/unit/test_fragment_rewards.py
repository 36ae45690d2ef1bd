"""Fragments as rewards see them, and what the learner is handed of their scores."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from fragment_scene import SPEC, STEPS, Lanes, Novelty, config, fragment, graph, scored
from stream_scene import Scene, trajectory

import rewards
from buffers.batch_metrics import fragment_metrics
from buffers.fragment import fragments_to_table, read_fragments
from buffers.samples import to_samples
from buffers.schema import to_table, with_rewards
from buffers.scores import ENVIRONMENT, INTRINSIC, Sample, Score, ScoreStatus, component_names
from buffers.transport import HandleSet, LocalHandle
from configs.decision import EnvironmentConfig
from configs.errors import ConfigError, DataError

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
    assert combine(scores, 0).total == 1.0 + 0.25 * 8.0
    late = {"right": Score(value=1.0), INTRINSIC: Score.invalid(ScoreStatus.TIMEOUT, "late")}
    assert combine(late, 0).total is None
    assert component_names(settings) == ["right", INTRINSIC]


def test_the_intrinsic_vector_of_a_text_stays_out_of_its_row(tmp_path: Path):
    scene = Scene(tmp_path / "run")
    table = to_table([trajectory(scene.buffer.lease("w", 1)[0], [(0, 2)])])
    assert with_rewards(table, [1.0], intrinsic=[(8.0,)])["intrinsic_rewards"].to_pylist() == [None]
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
    (verdict,) = asyncio.run(wired.score([broken], 0))
    assert (verdict.total, verdict.status) == (None, ScoreStatus.ERROR) and "return=nan" in verdict.detail


async def test_what_arrives_outwaits_the_restart_of_its_only_scorer():
    settings = config("actor")
    settings.exploration.deadline_s = 0.05
    pools = {INTRINSIC: HandleSet(INTRINSIC)}
    wired = rewards.build(settings, pools)
    sample = Sample(id="a", group="g", prompt="", completion="", captions=("lane 0",), num_tokens=STEPS)
    scoring = asyncio.create_task(wired.score([sample], 0))
    await asyncio.sleep(0.2)
    assert not scoring.done(), "the supervisor replaces it; a sample that is failed meanwhile is lost for nothing"
    pools[INTRINSIC].attach(LocalHandle("intrinsic-1", Novelty()))
    (verdict,) = await scoring
    assert verdict.scores[INTRINSIC].status is ScoreStatus.OK

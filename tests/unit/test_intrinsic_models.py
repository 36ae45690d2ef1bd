"""What every intrinsic reward keeps to: versions that all readers agree on, and training that can be resumed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from configs.errors import ConfigError
from configs.schema import RunConfig
from rewards.intrinsic import INTRINSICS, build_model
from rewards.intrinsic.base import Evidence, IntrinsicModel, after_steps
from rewards.online.archive import Archive
from rewards.online.tensors import infer

SPEC = EnvironmentSpec("toy", {"image": ArraySpec((3,), "uint8")}, ActionSpec("discrete", (2,)))
torch.set_num_threads(1)
SMALL = {"length": 99, "embedding": 8, "channels": 8, "hidden": 16, "steps": 30, "batch_size": 8, "learning_rate": 0.01}
OPTIONS: dict[str, dict[str, Any]] = {
    "counts": {},
    "classification": SMALL,
    "ranking": SMALL,
    "retrieval": {},
    "rnd": {"hidden": 8, "features": 4, "learning_rate": 0.01},
    "script": {"rules": [{"match": "key", "value": 1}]},
    "similarity": {"goals": ["pick up the key"]},
}
LEARNED = [name for name in OPTIONS if name not in ("counts", "script", "similarity")]
TEXTS = [f"a {thing} {i}" for thing in ("key", "wall", "door") for i in range(9)]


def model(name: str, seed: int = 0) -> IntrinsicModel:
    return build_model(RunConfig(seed=seed, intrinsic=name, intrinsics={name: OPTIONS[name]}), SPEC)


def evidence(name: str, seed: int) -> Evidence:
    rng = np.random.default_rng(seed)
    if name == "rnd":
        return Evidence(observations=[{"image": rng.integers(0, 255, (8, 3)).astype(np.uint8)} for _ in range(3)])
    size = 2 if name == "ranking" else 1
    items = [tuple(map(str, rng.choice(TEXTS, size, replace=False))) for _ in range(10)]
    keys = [["key" in caption for caption in item] for item in items]
    labels = [(item, float(k[0]) if size == 1 else (1 + k[0] - k[1]) / 2) for item, k in zip(items, keys, strict=True)]
    return Evidence(labels=labels[:8], held_out=labels[8:], captions=dict.fromkeys(TEXTS, 2))


def scored(held: IntrinsicModel, texts: list[str] = TEXTS) -> np.ndarray:
    if held.needs == "observations":
        return held.score({"image": np.arange(60, dtype=np.uint8).reshape(20, 3)})
    return held.score(texts)


def test_every_intrinsic_reward_is_tested_here():
    assert set(OPTIONS) == set(INTRINSICS)


@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_finite_one_each(name: str):
    values = scored(model(name))
    assert values.shape == ((20,) if name == "rnd" else (len(TEXTS),)) and np.isfinite(values).all()


@pytest.mark.parametrize("name", LEARNED)
def test_version_zero_has_learned_nothing_and_pays_nothing(name: str):
    assert model(name).version == 0 and not scored(model(name)).any()


@pytest.mark.parametrize("name", LEARNED)
def test_all_readers_of_a_version_agree_to_the_last_bit(name: str, tmp_path: Path):
    taught = model(name)
    for seed in range(3):
        taught.update(evidence(name, seed))
        sent = pickle.loads(pickle.dumps(taught.state()))
        reader, other = model(name, seed=7), model(name)  # whatever they began with
        reader.load(taught.version, sent)
        Archive(tmp_path).save(taught.version, taught.state())
        other.load(*(Archive(tmp_path).newest() or (0, {})))
        assert reader.version == other.version == taught.version == seed + 1
        assert scored(reader).tobytes() == scored(other).tobytes() == scored(taught).tobytes()
    assert len(set(scored(taught).tolist())) > 1, "the values say something"


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "rnd"])
def test_a_caption_is_worth_the_same_in_any_company(name: str):
    taught = model(name)
    if taught.learns:
        taught.update(evidence(name, 0))
    together = scored(taught)
    alone = np.concatenate([scored(taught, [text]) for text in TEXTS])
    backwards = scored(taught, TEXTS[::-1] * 4)[: len(TEXTS)][::-1]
    assert together.tobytes() == alone.tobytes() == backwards.tobytes()


def test_a_row_has_its_value_whatever_is_beside_it():
    network = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.ReLU(), torch.nn.Linear(200, 100))
    inputs = torch.randn(100, 300, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([infer(network, inputs[i : i + 1]) for i in range(100)])
    assert torch.equal(infer(network, inputs), alone)
    assert not torch.equal(torch.cat([network(inputs[i : i + 1]) for i in range(100)]), network(inputs)), "plain calls"


@pytest.mark.parametrize("name", LEARNED)
def test_a_state_that_was_published_does_not_change_when_training_goes_on(name: str):
    taught = model(name)
    taught.update(evidence(name, 0))
    sent = taught.state()
    before = pickle.dumps(sent)
    taught.update(evidence(name, 1))
    assert pickle.dumps(sent) == before


@pytest.mark.parametrize("name", LEARNED)
def test_training_that_is_resumed_goes_on_as_if_it_had_not_ended(name: str):
    whole, first, second = model(name), model(name), model(name)
    for seed in range(4):
        whole.update(evidence(name, seed))
    for seed in range(2):
        first.update(evidence(name, seed))
    second.load(first.version, {**first.state(), **first.training_state()})
    for seed in range(2, 4):
        second.update(evidence(name, seed))
    assert scored(second).tobytes() == scored(whole).tobytes()


@pytest.mark.parametrize(("name", "value"), [("classification", 1.0), ("ranking", 1.0)])
def test_labels_are_learned_and_generalise(name: str, value: float):
    settings = {**SMALL, "steps": 60, "learning_rate": 0.01}
    taught = build_model(RunConfig(intrinsic=name, intrinsics={name: settings}))
    keys, walls = [f"you see a key {i}" for i in range(20)], [f"a wall of stone {i}" for i in range(20)]
    labels = [((key,), 1.0) for key in keys] + [((wall,), 0.0) for wall in walls]
    if name == "ranking":
        labels = [((key, wall), 1.0) for key, wall in zip(keys, walls, strict=True)]
    seen = dict.fromkeys(keys + walls, 1)
    metrics = taught.update(Evidence(labels=labels[::2], held_out=labels[1::2], captions=seen))
    assert metrics["heldout_accuracy"] >= 0.9 and metrics["loss"] < 0.6
    assert taught.score(["you see a key 99"])[0] >= value * 0.5 > taught.score(["a wall of stone 99"])[0]


def test_what_was_never_measured_is_no_figure():
    taught = model("classification")
    assert taught.update(Evidence()) == {}
    assert "heldout_accuracy" not in model("ranking").update(Evidence(labels=[(("a", "b"), 0.5)]))


def test_a_fragment_shows_what_its_steps_led_to():
    data = SPEC.encode({"image": np.arange(12, dtype=np.uint8).reshape(4, 3)})
    assert after_steps(SPEC, data)["image"].tolist() == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classification", {"length": 50}, r"length is 50; it must be >= 99 with depth=1"),
        ("ranking", {"steps": 0}, r"steps is 0; it must be >= 1"),
        ("similarity", {"goals": []}, r"goals is \[\]"),
        ("similarity", {"goals": "key"}, r"goals is 'key'"),
        ("similarity", {"goals": ["key"], "threshold": 1.0}, r"threshold is 1.0"),
        ("rnd", {"keys": ["picture"]}, r"keys names 'picture'; it must name observations: image"),
        ("retreival", {}, r"'retreival', which is not known; did you mean 'retrieval'"),
        ("counts", {"bonus": 1}, r"intrinsics.counts.bonus is not an argument"),
        ("rewards.base:Component", {}, r"must be a rewards.intrinsic.base.IntrinsicModel"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build_model(RunConfig(intrinsic=name, intrinsics={name: options}), SPEC)


def test_observations_are_not_had_of_a_language_policy():
    with pytest.raises(ConfigError, match="needs observations"):
        build_model(RunConfig(intrinsic="rnd"))

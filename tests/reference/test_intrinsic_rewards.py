"""Intrinsic rewards against the formulas of their papers, computed another way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from rewards.intrinsic.base import Evidence
from rewards.intrinsic.classification import Classification
from rewards.intrinsic.counts import Counts
from rewards.intrinsic.moments import Moments
from rewards.intrinsic.ranking import Ranking, bradley_terry_loss
from rewards.intrinsic.retrieval import Retrieval
from rewards.intrinsic.rnd import RandomNetworkDistillation, discounted_sums
from rewards.intrinsic.similarity import Similarity

SPEC = EnvironmentSpec(
    "toy", {"image": ArraySpec((2, 2), "uint8"), "x": ArraySpec((), "float32")}, ActionSpec("discrete", (2,))
)


def softmax_cross_entropy(first: float, second: float, label: float) -> float:
    """The two-way softmax with soft labels, as the paper prints it."""
    total = math.exp(first) + math.exp(second)
    return -label * math.log(math.exp(first) / total) - (1 - label) * math.log(math.exp(second) / total)


def loss(gap: float, label: float) -> float:
    return float(bradley_terry_loss(torch.tensor([gap]), torch.tensor([0.0]), torch.tensor([label])))


def test_bradley_terry_with_soft_ties_equals_the_published_numbers():
    # S046: cross entropy at R1 - R2 = 0.4.
    assert loss(0.4, 1.0) == pytest.approx(0.5130, abs=5e-5)
    assert loss(0.4, 0.5) == pytest.approx(0.7130, abs=5e-5)


@pytest.mark.parametrize("label", [0.0, 0.5, 1.0, 0.3])
@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (2.0, -1.0), (-3.0, 0.5)])
def test_bradley_terry_is_the_softmax_over_two(first: float, second: float, label: float):
    ours = bradley_terry_loss(*(torch.tensor([x], dtype=torch.float64) for x in (first, second, label)))
    assert float(ours) == pytest.approx(softmax_cross_entropy(first, second, label), rel=1e-9)


def test_a_tie_pulls_both_together():
    rewards = torch.tensor([0.7, -0.2], requires_grad=True)
    bradley_terry_loss(rewards[:1], rewards[1:], torch.tensor([0.5])).backward()
    assert rewards.grad is not None
    assert rewards.grad[0] > 0 > rewards.grad[1], "the higher value falls, the lower one rises"


def total_reward(extrinsic: float, intrinsic: float, count: int) -> float:
    """S046: c_ext r_env + c_int r_llm / N^3 with c = (0.1, 0.4)."""
    return 0.1 * extrinsic + 0.4 * intrinsic / count**3


def test_retrieval_gives_the_published_totals():
    model = Retrieval()
    model.update(Evidence(labels=[(("stairs",), 1.0)]))
    labelled, unlabelled = model.score(["stairs", "wall"])
    assert total_reward(2, labelled, 2) == pytest.approx(0.25)
    assert total_reward(2, labelled, 1) == pytest.approx(0.6)
    assert total_reward(2, unlabelled, 1) == pytest.approx(0.2)


def test_counts_are_one_whatever_is_said():
    assert Counts().score(["a", "b", "a"]).tolist() == [1.0, 1.0, 1.0]


def ngram_cosine(a: str, b: str, size: int) -> float:
    """Cosine over dense vectors, vocabulary listed explicitly."""

    def features(text: str) -> list[str]:
        found = []
        for word in text.lower().split():
            marked = f"<{word}>"
            found += [marked, *(marked[i : i + size] for i in range(len(marked) - size + 1) if len(marked) > size)]
        return found

    vocabulary = sorted({*features(a), *features(b)})
    x, y = (np.array([features(text).count(f) for f in vocabulary], float) for text in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("caption", ["You pick up the key", "the keys", "a wall", "pick up", "key key key"])
def test_similarity_is_the_cosine_of_bags(caption: str):
    expected = ngram_cosine(caption, "pick up the key", 3)
    [score] = Similarity(goals=["pick up the key"], threshold=0.0).score([caption])
    assert score == pytest.approx(expected)


def test_similarity_takes_the_nearest_goal_and_nothing_below_the_threshold():
    model = Similarity(goals=["open the door", "pick up the key"], threshold=0.5)
    near, far = model.score(["you pick up the key", "it is cold here"])
    assert near == pytest.approx(ngram_cosine("you pick up the key", "pick up the key", 3)) and far == 0.0
    assert model.score(["PICK up the key!"]) == pytest.approx(1.0)


def with_prior(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of values beside a start that weighs 1e-4: as if so much of (mean 0, variance 1) was seen."""
    weights = np.array([1e-4, *[1.0] * len(values)])
    everything = np.concatenate([np.zeros_like(values[:1]), values])
    mean = np.average(everything, axis=0, weights=weights)
    variance = np.average((everything - mean) ** 2, axis=0, weights=weights) + 1e-4 / weights.sum()
    return mean, np.sqrt(variance)


@pytest.mark.parametrize("sizes", [[5], [1, 4], [3, 3, 7, 1]])
def test_moments_merged_in_parts_equal_those_of_the_whole(sizes: Sequence[int]):
    values = np.random.default_rng(0).normal(3.0, 2.0, (sum(sizes), 4))
    merged = Moments()
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        merged = merged.merge(part)
    mean, deviation = with_prior(values)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(merged.variance, deviation**2, rtol=1e-10)


def test_moments_count_occurrences():
    values = np.array([1.0, 5.0])
    counted = Moments().merge(values, np.array([3, 1]))
    repeated = Moments().merge(np.array([1.0, 1.0, 1.0, 5.0]))
    assert counted.mean == pytest.approx(repeated.mean) and counted.variance == pytest.approx(repeated.variance)


def ranked(threshold: float = -0.5) -> Ranking:
    model = Ranking(steps=4, threshold=threshold, seed=3)
    texts = [f"caption {i}" for i in range(12)]
    pairs = [((a, b), 1.0) for a, b in pairwise(texts)]
    model.update(Evidence(labels=pairs, captions=dict(zip(texts, range(1, 13), strict=True))))
    return model


def test_ranking_really_uses_the_normalised_value():
    model, texts = ranked(), [f"caption {i}" for i in range(12)]
    raw = model.values(texts)
    mean, deviation = with_prior(np.repeat(raw, range(1, 13)))
    z = (raw - mean) / deviation
    expected = [value if value > -0.5 else 0.0 for value in z]
    np.testing.assert_allclose(model.score(texts), expected, rtol=1e-3, atol=1e-3)
    assert np.abs(model.score(texts) - raw).max() > 0.1, "raw and normalised differ, so the test can tell them apart"


def test_ranking_scores_zero_up_to_its_threshold():
    texts = [f"caption {i}" for i in range(12)]
    low, high = ranked(-10.0).score(texts), ranked(0.5).score(texts)
    assert (low < 0).any() and high[high != 0].min() > 0.5
    assert (high[low <= 0.5] == 0).all()


def test_classification_is_an_indicator_at_its_threshold():
    model = Classification(steps=8, seed=1)
    model.update(Evidence(labels=[((f"key {i}",), 1.0) for i in range(8)] + [((f"wall {i}",), 0.0) for i in range(8)]))
    texts = [f"key {i}" for i in range(20)] + [f"wall {i}" for i in range(20)]
    p = model.probabilities(texts)
    logits = model.infer(texts).double().numpy()
    np.testing.assert_allclose(p, np.exp(logits[:, 1]) / np.exp(logits).sum(1), rtol=1e-5)
    for threshold in (float(np.median(p)), 0.5):
        model.threshold = threshold
        assert model.score(texts).tolist() == [float(x > threshold) for x in p]


def test_discounted_sums_equal_the_double_sum():
    errors = np.array([1.0, 0.5, 2.0, 0.0, 3.0])
    expected = [sum(0.9 ** (t - s) * errors[s] for s in range(t + 1)) for t in range(5)]
    np.testing.assert_allclose(discounted_sums(errors, 0.9), expected)


def observations(rng: np.random.Generator, steps: int) -> dict[str, np.ndarray]:
    image = rng.integers(0, 255, (steps, 2, 2)).astype(np.uint8)
    return {"image": image, "x": rng.normal(2.0, 3.0, steps).astype(np.float32)}


def test_rnd_is_the_normalised_prediction_error():
    model, rng = RandomNetworkDistillation(spec=SPEC, seed=5), np.random.default_rng(1)
    fragments = [observations(rng, 8) for _ in range(4)]
    flat = np.concatenate([np.column_stack([f["image"].reshape(8, 4), f["x"]]) for f in fragments]).astype(float)
    assert model.score(fragments[0]).tolist() == [0.0] * 8, "version 0 knows no unit yet"

    def errors() -> np.ndarray:
        inputs = torch.tensor(((flat - flat.mean(0)) / flat.std(0)).clip(-5, 5)).float()
        with torch.no_grad():
            return ((model.predictor(inputs) - model.target(inputs)) ** 2).mean(1).double().numpy()

    before = errors()
    model.update(Evidence(observations=fragments))
    sums = [sum(0.99 ** (t - s) * part[s] for s in range(t + 1)) for part in np.split(before, 4) for t in range(8)]
    np.testing.assert_allclose(model.score(fragments[2]), errors()[16:24] / np.std(sums), rtol=2e-2)


def test_rnd_pays_less_for_what_it_saw_often():
    model, rng = RandomNetworkDistillation(spec=SPEC, learning_rate=1e-3, seed=5), np.random.default_rng(1)
    known, new = observations(rng, 8), observations(rng, 8)
    before = model._errors(model._flat(new)).mean()
    for _ in range(60):
        model.update(Evidence(observations=[known]))
    assert model.score(known).mean() < 0.5 * model.score(new).mean()
    assert before > 0

"""Rewards made of other rewards, against the figures of the catalogue and against sums written out."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffers.scores import Sample, ScoreStatus
from buffers.trajectory import Span
from learners.models.load import create_model_folder
from learners.models.tokenizer import encode
from rewards.process.hosted import HostedModel
from rewards.shaping.gated_cost import GatedCost, cheapness
from rewards.shaping.preferences import Preferences, scaled
from rewards.verifiers.calibration import CalibratedAbstention
from rewards.verifiers.usage import Usage
from tests.unit.engine_models import model_config

COLUMNS = ("tool1", "tool2", "right", "cost", "latency")
ROWS = [(2, 0, 1, -0.10, -12), (0, 3, 1, -0.04, -30), (1, 1, 0, -0.01, -5)]


def sample(number: int = 0, *, group: str = "g", metadata: dict[str, Any] | None = None, **scores: Any) -> Sample:
    told = {"scores": scores, **(metadata or {})}
    return Sample(id=f"s{number}", group=group, prompt="", completion="", metadata=told)


def orchestra() -> Preferences:
    return Preferences(after=COLUMNS, outcome="right", preferences={"tool2": 0.5, "right": 1.0, "cost": 0.5})


def test_preferences_give_the_table_of_the_catalogue():
    group = [sample(i, **dict(zip(COLUMNS, row, strict=True))) for i, row in enumerate(ROWS)]
    scores = orchestra().score(group)
    expected = [(1, 0, 1, 0, 0.72), (0, 1, 1, 0.6667, 0), (0.5, 0.3333, 0, 1, 1)]
    for score, row in zip(scores, expected, strict=True):
        assert score.vector == pytest.approx(row, abs=5e-5)
    values = [score.value or 0.0 for score in scores]
    assert values == pytest.approx([1.0, 1.8333, 0.0], abs=5e-5)
    spread = statistics.pstdev(values)
    assert [(v - statistics.fmean(values)) / spread for v in values] == pytest.approx(
        [0.0741, 1.186, -1.2601], abs=1e-3
    )


def test_groups_are_scaled_apart_and_who_lacks_a_score_scales_nobody():
    rows = [
        sample(0, group="a", right=1, cost=-1.0), sample(1, group="b", right=1, cost=-9.0),
        sample(2, group="a", right=1, cost=-3.0), sample(3, group="a", right=1, cost=None),
    ]  # fmt: skip
    component = Preferences(after=["right", "cost"], outcome="right", preferences={"cost": 1.0})
    scores = component.score(rows)
    assert [score.value for score in scores] == [1.0, 0.0, 0.0, None]
    assert scores[3].status is ScoreStatus.ABSTAINED and "no valid score by cost" in scores[3].detail


def test_a_task_s_own_preferences_win_and_wrong_ones_are_named():
    component = Preferences(after=["right", "cost"], outcome="right", preferences={"cost": 1.0})
    own = [
        sample(i, right=1, cost=cost, metadata={"preferences": {"cost": 0.25}}) for i, cost in enumerate((-1.0, -3.0))
    ]
    assert [score.value for score in component.score(own)] == [0.25, 0.0]
    (odd,) = component.score([sample(right=1, cost=0.0, metadata={"preferences": {"speed": 1}})])
    assert odd.status is ScoreStatus.ABSTAINED and "'speed' is not in after" in odd.detail
    with pytest.raises(ValueError, match="cost is 2; it must lie in"):
        Preferences(after=["right", "cost"], outcome="right", preferences={"cost": 2})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_scaling_keeps_the_order_and_ends_at_0_and_1(values: list[float]):
    found = scaled(values)
    assert found[values.index(min(values))] == 0.0
    assert found[values.index(max(values))] == float(max(values) > min(values))
    assert all(0 <= x <= 1 for x in found)


def test_costs_give_the_figures_of_the_catalogue_in_their_order():
    component = GatedCost(after=["right", "cost"], outcome="right", cost="cost", share=0.6)
    given_costs = [sample(i, right=1.0, cost=-cost) for i, cost in enumerate((100, 400, 0, 225))]
    scores = [component.score([one])[0] for one in given_costs]
    assert [score.vector[0] for score in scores] == pytest.approx([0.5, 0, 1, 0.2394], abs=5e-5)
    assert [score.value for score in scores] == pytest.approx([0.7, 0.4, 1.0, 0.5437], abs=5e-5)
    again = component.score(given_costs[-1:])[0]
    assert again.value == pytest.approx(0.5437, abs=5e-5), "a sample that is scored again is no further cost"


def test_cheap_and_wrong_earns_nothing_and_old_costs_are_forgotten():
    component = GatedCost(after=["right", "cost"], outcome="right", cost="cost", share=0.6, window=2)
    assert component.score([sample(0, right=0.0, cost=0.0)])[0].value == 0.0
    component.score([sample(1, right=1.0, cost=-4.0), sample(2, right=1.0, cost=-16.0)])
    assert component.score([sample(3, right=1.0, cost=-9.0)])[0].vector == (1.0,), "of 16 and 9 it is the cheaper"
    assert component.score([sample(4, right=None, cost=0.0)])[0].status is ScoreStatus.ABSTAINED


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.integers(0, 29))
def test_cheapness_is_what_its_words_say(roots: list[float], at: int):
    root, ordered = roots[at % len(roots)], sorted(roots)

    def percentile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])

    low, high = percentile(0.05), percentile(0.95)
    expected = 0.5 if high - low < 1e-8 else 1 - min(max((root - low) / (high - low), 0.0), 1.0)
    assert cheapness(root, roots) == pytest.approx(expected, abs=1e-6)


def test_tokens_and_tool_calls_have_their_price():
    spans = (Span("turn", 2, 5), Span("tool", 5, 7), Span("turn", 7, 9))
    (score,) = Usage(token_price=2.0, call_price=0.5).score(
        [Sample(id="s", group="g", prompt="", completion="", num_tokens=5, spans=spans)]
    )
    assert score.value == pytest.approx(-(2.0 * 5 / 1e6 + 0.5)) and score.vector == (5.0, 1.0)
    with pytest.raises(ValueError, match="one of them > 0"):
        Usage()


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = model_config()
    config.characters = "<>/answer 0123456789Ido'tk"
    return str(create_model_folder(config, tmp_path_factory.mktemp("models") / "tagged", 5))


def answered(folder: str, text: str, nats: dict[str, float], **fields: Any) -> Sample:
    tokens = encode(HostedModel(folder).tokenizer, text)
    logprobs = tuple(nats.get(character, -9.0) for character in text)
    return Sample(
        id="s", group="g", prompt="", completion=text, tokens=tuple(tokens), num_tokens=len(tokens), logprobs=logprobs,
        **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "answer", "answerable", "table", "correct"),
    [("<answer>42</answer>", "42", True, 1.0, 1.0), ("<answer>42</answer>", "7", True, -1.5, 0.0),
     ("<answer>42</answer>", "42", False, -2.0, 0.0)],
)  # fmt: skip
def test_an_answer_pays_for_being_surer_than_right(
    tagged: str, text: str, answer: str, answerable: bool, table: float, correct: float
):
    nats = {"4": -0.1, "2": -0.5}  # of the answer's tokens alone; all others are next to impossible
    given_one = answered(tagged, text, nats, answer=answer, metadata={"answerable": answerable})
    (score,) = CalibratedAbstention(answer_tag="answer", tokenizer=tagged).score([given_one])
    c = math.exp(-0.3)
    assert score.value == pytest.approx(table - 0.5 * (c - correct) ** 2)
    assert score.vector == pytest.approx((c, correct))


def test_who_abstains_claims_nothing_and_without_logprobs_nobody_is_judged(tagged: str):
    component = CalibratedAbstention(answer_tag="answer", tokenizer=tagged)
    quiet = answered(tagged, "<answer>I don't know</answer>", {}, metadata={"answerable": False})
    assert component.score([quiet])[0].value == 1.0
    bare = Sample(id="s", group="g", prompt="", completion="<answer>42</answer>", answer="42", num_tokens=0)
    assert component.score([bare])[0].status is ScoreStatus.ABSTAINED
    with pytest.raises(ValueError, match="without a tokenizer"):
        CalibratedAbstention(answer_tag="answer")


def test_without_a_tag_all_sampled_tokens_are_the_answer():
    given_one = Sample(
        id="s", group="g", prompt="", completion="Paris", answer="Paris", tokens=(1, 2, 3), num_tokens=2,
        logprobs=(0.0, -0.2, -0.4),
    )  # fmt: skip
    (score,) = CalibratedAbstention().score([given_one])
    assert score.value == pytest.approx(1.0 - 0.5 * (math.exp(-0.3) - 1) ** 2)

"""From scores to a verdict: transforms, credit to steps, rules, gates, schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rewards
from buffers.scores import Score, ScoreStatus, StepRewards
from buffers.trajectory import Span
from buffers.transport import HandleSet
from configs.errors import ConfigError
from configs.learning import LearnerConfig
from configs.load import load_config
from configs.registry import resolve
from configs.rewarding import GateConfig, RewardComponentConfig, RewardsConfig
from configs.rules import check_rules
from configs.schema import RunConfig
from configs.stream import BufferConfig
from rewards.combine import Combine, Gate, Term, Verdict
from rewards.rules import Minimum, Product
from rewards.schedules import Constant, Cosine, Linear, Step, build_schedule
from rewards.transforms import TRANSFORMS, build_transforms

INVALID = Score.invalid(ScoreStatus.TIMEOUT, "too slow")


def steps(values: Sequence[float], ends: Sequence[int] = (4, 7, 9), value: float = 0.5) -> Score:
    """A score of one span per value, each after the one before it."""
    starts = [2, *ends]
    spans = tuple(Span("step", a, b) for a, b in zip(starts, ends, strict=False))
    return Score(value=value, span_values=tuple(values), spans=spans[: len(values)], component="prm")


def term(weight: float = 1.0, credit: str = "outcome", *transforms: Mapping[str, Any]) -> Term:
    return Term(weight=Constant(weight), credit=credit, transforms=build_transforms(transforms, "transforms"))


# -- credit to steps ----------------------------------------------------------------------------


def test_credit_decides_whether_a_value_or_its_spans_count():
    scores = {"right": Score(value=1.0), "prm": steps([0.25, -1.0])}
    for credit, total, given_steps in [
        ("outcome", 2.0, None),
        ("steps", 1.0, StepRewards((4, 7), (0.5, -2.0))),
        ("both", 2.0, StepRewards((4, 7), (0.5, -2.0))),
    ]:
        verdict = Combine({"right": term(), "prm": term(2.0, credit)})(scores, 0)
        assert (verdict.total, verdict.steps) == (total, given_steps)


def test_rewards_of_steps_of_several_components_are_added_where_they_end():
    combine = Combine({"a": term(1.0, "steps"), "b": term(-2.0, "steps")})
    verdict = combine({"a": steps([1.0, 2.0], [4, 7]), "b": steps([0.5, 0.25], [3, 7])}, 0)
    assert verdict.steps == StepRewards((3, 4, 7), (-1.0, 1.0, 1.5)) and verdict.total == 0.0


def test_a_score_without_spans_gives_no_steps_and_an_invalid_one_no_verdict():
    combine = Combine({"right": term(), "prm": term(1.0, "steps")})
    assert combine({"right": Score(value=1.0), "prm": Score(value=0.3)}, 0).steps == StepRewards((), ())
    failed = combine({"right": Score(value=1.0), "prm": INVALID}, 0)
    assert (failed.total, failed.steps, failed.status, failed.detail) == (None, None, "timeout", "prm: too slow")
    lenient = Combine({"right": term(), "prm": term(1.0, "steps")}, ignore_invalid=["prm"])
    assert lenient({"right": Score(value=1.0), "prm": INVALID}, 0).steps == StepRewards((), ())


def test_what_has_no_finite_total_is_an_error_and_no_crash():
    huge = Score(value=1e308)
    for rule in (None, Product()):
        verdict = Combine({"a": term(10.0), "b": term(10.0)}, rule)({"a": huge, "b": huge}, 0)
        assert (verdict.total, verdict.status) == (None, ScoreStatus.ERROR) and "not finite" in verdict.detail
    verdict = Combine({"a": term(1e10, "steps")})({"a": steps([1e308])}, 0)
    assert verdict.total is None and "a step is not finite" in verdict.detail


# -- transforms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"target": "clip", "low": -1.0, "high": 0.75}, [-1.0, -0.5, 0.0, 0.75]),
        ({"target": "clip", "high": 0.0}, [-2.0, -0.5, 0.0, 0.0]),
        ({"target": "scale", "factor": -2.0, "shift": 1.0}, [5.0, 2.0, 1.0, -5.0]),
        ({"target": "threshold", "above": 0.0, "low": -1.0}, [-1.0, -1.0, -1.0, 1.0]),
        ({"target": "power", "exponent": 2.0}, [-4.0, -0.25, 0.0, 9.0]),
        ({"target": "log", "scale": 2.0}, [-math.log(2.0), -math.log(1.25), 0.0, math.log(2.5)]),
    ],
)
def test_a_transform_changes_each_number_of_a_score_by_itself(section: dict[str, Any], expected: list[float]):
    numbers = (-2.0, -0.5, 0.0, 3.0)
    (transform,) = build_transforms([section], "transforms")
    for number, wanted in zip(numbers, expected, strict=True):
        score = transform(Score(value=number, component="a", version=3))
        assert score.value == pytest.approx(wanted, abs=1e-15) and (score.component, score.version) == ("a", 3)
    whole = transform(replace(steps(numbers, (4, 7, 9, 12)), vector=numbers))
    assert whole.vector == pytest.approx(expected) and whole.span_values == pytest.approx(expected)
    assert [span.end for span in whole.spans] == [4, 7, 9, 12]


def test_transforms_are_applied_in_their_order_and_leave_the_recorded_score_raw():
    chain = ({"target": "clip", "low": 0.0, "high": 1.0}, {"target": "scale", "factor": 3.0})
    raw = steps([5.0, -1.0], value=7.0)
    verdict = Combine({"prm": term(2.0, "both", *chain)})({"prm": raw}, 0)
    assert (verdict.total, verdict.steps) == (6.0, StepRewards((4, 7), (6.0, 0.0)))
    assert verdict.scores["prm"] is raw
    assert Combine({"prm": term(2.0, "both", *reversed(chain))})({"prm": raw}, 0).total == 2.0


def test_a_transform_without_a_finite_answer_makes_the_score_invalid():
    verdict = Combine({"a": term(1.0, "outcome", {"target": "power", "exponent": 2.0})})({"a": Score(value=1e200)}, 0)
    assert (verdict.total, verdict.status) == (None, ScoreStatus.ERROR)
    assert verdict.detail.startswith("a: a transform of it failed")


@pytest.mark.parametrize("name", ["log", "power", "scale"])
@given(x=st.floats(-1e6, 1e6), y=st.floats(-1e6, 1e6))
def test_order_stays(name: str, x: float, y: float):
    transform = resolve(TRANSFORMS, name, "test")(**({"exponent": 0.5} if name == "power" else {}))
    low, high = sorted((x, y))
    assert transform(Score(value=low)).value <= transform(Score(value=high)).value


# -- rules and gates ----------------------------------------------------------------------------


def values(**numbers: float) -> dict[str, Score]:
    return {name: Score(value=number) for name, number in numbers.items()}


def test_a_product_fades_a_factor_in_with_its_weight():
    for weight, total in [(0.0, 0.5), (0.5, 0.5 * 0.6), (1.0, 0.5 * 0.2)]:
        verdict = Combine({"a": term(), "b": term(weight)}, Product())(values(a=0.5, b=0.2), 0)
        assert verdict.total == pytest.approx(total)


def test_the_minimum_leaves_out_what_has_no_weight():
    combine = Combine({"a": term(), "b": term(2.0), "c": term(0.0)}, Minimum())
    assert combine(values(a=0.5, b=0.2, c=-9.0), 0).total == pytest.approx(0.4)


def test_gates_are_passed_in_their_order_as_in_a_router_paid_by_cost():
    """Router-R1's reward: -1 for a wrong format, 0 for a wrong answer, else 0.4 s + 0.6 c."""

    def printed(format_ok: float, s: float, c: float) -> float:
        if not format_ok:
            return -1.0
        return s * (1 - 0.6) + c * 0.6 if s > 0 else s

    gates = [Gate(component="format", above=0.5, floor=-1.0), Gate(component="correct")]
    combine = Combine({"format": term(0.0), "correct": term(0.4), "cost": term(0.6)}, gates=gates)
    for case in [(1, 1, 0.5), (1, 1, 0.0), (1, 1, 0.2394), (1, 0, 1.0), (0, 1, 1.0), (0, 0, 1.0)]:
        found = combine(values(format=case[0], correct=case[1], cost=case[2]), 0).total
        assert found == pytest.approx(printed(*case)), case


def test_behind_a_closed_gate_no_step_has_a_reward():
    combine = Combine({"format": term(), "prm": term(1.0, "steps")}, gates=[Gate(component="format", floor=-1.0)])
    verdict = combine({"format": Score(value=0.0), "prm": steps([1.0])}, 0)
    assert (verdict.total, verdict.steps) == (-1.0, StepRewards((), ()))
    assert verdict.scores["prm"].span_values == (1.0,), "recorded all the same"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gates": [Gate(component="b")]}, "gates names \\['b'\\]; the components are \\['a'\\]"),
        ({"gates": [Gate(component="a")], "ignore_invalid": "a"}, "ignore_invalid names \\['a'\\], which are gates"),
    ],
)
def test_a_gate_must_be_a_component_that_cannot_be_left_out(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Combine({"a": term()}, **settings)


def test_what_is_asked_later_is_left_out_at_arrival():
    combine = Combine({"a": term(), "late": term(5.0)}, gates=[Gate(component="late", floor=-1.0)])
    assert combine(values(a=3.0), 0).total == 3.0
    assert combine(values(a=3.0, late=1.0), 0).total == 8.0
    assert combine(values(a=3.0, late=0.0), 0).total == -1.0


# -- schedules ----------------------------------------------------------------------------------


def test_schedules_change_at_the_update_that_consumes():
    linear = Linear(start=1.0, end=0.0, updates=4, first=10)
    assert [linear(v) for v in (0, 10, 11, 12, 14, 99)] == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    cosine = Cosine(start=0.0, end=2.0, updates=2)
    assert [cosine(v) for v in (0, 1, 2, 3)] == pytest.approx([0.0, 1.0, 2.0, 2.0])
    step = Step(start=1.0, end=0.25, first=3)
    assert [step(v) for v in (0, 2, 3, 9)] == [1.0, 1.0, 0.25, 0.25]


def test_a_verdict_follows_its_schedule_and_the_recorded_score_does_not():
    combine = Combine({"a": Term(weight=Linear(start=1.0, end=0.0, updates=2)), "b": term()})
    verdicts = [combine(values(a=4.0, b=1.0), version) for version in (0, 1, 2)]
    assert [v.total for v in verdicts] == [5.0, 3.0, 1.0] and combine.scheduled
    assert {v.scores["a"].value for v in verdicts} == {4.0}
    assert not Combine({"a": term(0.5)}).scheduled


@pytest.mark.parametrize("weight", [True, math.nan, None, [1.0]])
def test_a_weight_that_is_no_number_is_refused(weight: object):
    with pytest.raises(ConfigError, match=r"x\.weight is .*; it must be a finite number or a schedule"):
        build_schedule(weight, "x.weight")


# -- configuration ------------------------------------------------------------------------------


def config(words: Sequence[str] = (), **components: dict[str, Any]) -> RunConfig:
    sections = {name: RewardComponentConfig(**settings) for name, settings in components.items()}
    return RunConfig(rewards=RewardsConfig(components=sections))


def combined(settings: RunConfig, scores: Mapping[str, Score], version: int = 0) -> Verdict:
    return rewards.build_combine(settings)(scores, version)


def test_a_graph_is_read_from_yaml(tmp_path):
    path = tmp_path / "graph.yaml"
    path.write_text("""
rewards:
  components:
    right:
      component: {target: exact_match}
    judge:
      component: {target: numeric}
      weight: {target: linear, start: 1.0, end: 0.0, updates: 10}
      transforms: [{target: clip, low: 0.0, high: 1.0}, {target: scale, factor: 2.0}]
  gates:
    - {component: right, above: 0.5, floor: -1.0}
  combine: {target: weighted_sum, ignore_invalid: [judge]}
""")
    settings = load_config([path], [])
    assert combined(settings, values(right=1.0, judge=9.0), 5).total == 2.0
    assert combined(settings, values(right=0.0, judge=9.0), 5).total == -1.0
    assert combined(settings, {"right": Score(value=1.0), "judge": INVALID}).total == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": {"target": "linaer"}}, r"rewards\.components\.x\.weight\.target is 'linaer'.*'linear'"),
        ({"weight": {"target": "linear", "start": 1, "end": 0, "updates": 0}}, r"x\.weight .*updates is 0"),
        ({"transforms": [{"target": "clip"}, {"target": "clp"}]}, r"x\.transforms\[1\]\.target is 'clp'.*'clip'"),
        ({"transforms": [{"target": "clip", "low": 2.0, "high": 1.0}]}, r"x\.transforms\[0\] .*low is 2\.0"),
    ],
)
def test_a_wrong_part_of_a_component_is_named(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        combined(config(x={"component": {"target": "numeric"}, **settings}), {})


def test_an_unknown_credit_or_gate_is_named():
    with pytest.raises(
        ConfigError, match=r"rewards\.components\.x\.credit is 'step'; it must be one of outcome, steps"
    ):
        config(x={"component": {"target": "numeric"}, "credit": "step"})
    settings = config(x={"component": {"target": "numeric"}})
    settings.rewards.gates = [GateConfig(component="y")]
    with pytest.raises(ConfigError, match=r"rewards: gates names \['y'\]; the components are \['x'\]"):
        combined(settings, {})


@pytest.mark.parametrize(
    ("credit", "target", "message"),
    [
        ("steps", "group_normalised", r"learner\.advantage\.target is 'group_normalised'; it must read the rewards of"),
        ("outcome", "process_return", r"learner\.advantage\.target is 'process_return'; it must have rewards of steps"),
    ],
)
def test_credit_and_estimator_must_fit(credit: str, target: str, message: str):
    settings = config(x={"component": {"target": "numeric"}, "credit": credit})
    settings.learner = LearnerConfig(advantage={"target": target})
    with pytest.raises(ConfigError, match=message):
        check_rules(settings)


def test_filters_look_at_totals_and_steps_alone_have_none():
    settings = config(x={"component": {"target": "numeric"}, "credit": "steps"})
    settings.buffer = BufferConfig(filters=[{"target": "zero_variance"}])
    with pytest.raises(ConfigError, match=r"buffer\.filters is .*have a reward to look at"):
        rewards.build(settings, {"x": HandleSet("x")})

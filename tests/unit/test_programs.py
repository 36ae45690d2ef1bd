"""Rollout programs against a scripted policy and a real character tokenizer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.engines.base import Completion
from actors.programs import PROGRAMS, build
from actors.programs.arithmetic import evaluate
from actors.programs.builder import TrajectoryBuilder, encode_prompt
from buffers.identity import Slot
from buffers.trajectory import Kind, Sampling, Span, Status, Task, Trajectory
from configs.errors import ConfigError, DataError, RunError
from learners.models.tokenizer import character_tokenizer

TASK = Task(source="sums", index=7, prompt="12+3=", answer="15", metadata={"level": 1}, user="ann")
TOKENIZER = character_tokenizer("0123456789+-*/=()[]; .ero")


class ScriptedPolicy:
    """Answers each call with the next line of a script; stops and lengths work as in an engine.

    Token n of the whole script has log-probability -n, and each call comes from a newer version.
    """

    tokenizer = TOKENIZER
    slot = Slot("sums", 0, 7, 2)
    attempt = 1

    def __init__(
        self, *script: str, context_length: int = 64, sampling: Sampling | None = None, reason: str = "stop"
    ) -> None:
        self.sampling = sampling or Sampling(max_completion_length=24)
        self.context_length = context_length
        self.contexts: list[str] = []
        self.samplings: list[Sampling] = []
        self._script = list(script)
        self._reason = reason
        self._sampled = 0

    async def generate(self, tokens: Sequence[int], *, sampling: Sampling | None = None) -> Completion:
        sampling = sampling or self.sampling
        if len(tokens) + sampling.max_completion_length > self.context_length:
            raise ValueError("request exceeds the context")
        self.contexts.append(TOKENIZER.decode(tokens))
        self.samplings.append(sampling)
        text, reason = self._cut(self._script.pop(0), sampling)
        ids = np.array(TOKENIZER.encode(text), np.int32)
        logprobs = -np.arange(self._sampled, self._sampled + len(ids), dtype=np.float32)
        self._sampled += len(ids)
        versions = np.full(len(ids), len(self.contexts), np.int64)
        return Completion(id="r", tokens=ids, logprobs=logprobs, versions=versions, finish_reason=reason)

    def _cut(self, text: str, sampling: Sampling) -> tuple[str, str]:
        ends = [text.index(stop) + len(stop) for stop in sampling.stop if stop in text]
        text, limit = text[: min(ends, default=len(text))], sampling.max_completion_length
        return (text[:limit], "length") if len(text) > limit else (text, self._reason)

    async def logprobs(self, sequences: Sequence[Sequence[int]], model: str = "current") -> list[NDArray[np.float32]]:
        return [np.zeros(len(sequence), np.float32) for sequence in sequences]

    def fork(self, branch: int) -> ScriptedPolicy:
        return self


async def run(section: dict[str, Any], policy: ScriptedPolicy, task: Task = TASK) -> Trajectory:
    [trajectory] = await build(section).rollout(task, policy, random.Random(0))
    return trajectory


def texts(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Return (kind, text) of each span."""
    return [(span.kind, TOKENIZER.decode(trajectory.tokens[span.start : span.end])) for span in trajectory.spans]


BRACKETS = {"target": "calculator", "open": "[", "close": "]", "result": "{value};"}


async def test_single_turn_records_prompt_and_completion_token_by_token() -> None:
    trajectory = await run({"target": "single_turn"}, ScriptedPolicy("15"))
    assert trajectory.id == "sums:0:7:2.1.0"
    assert trajectory.tokens.tolist() == TOKENIZER.encode("12+3=15")
    assert trajectory.kinds.tolist() == [Kind.PROMPT] * 5 + [Kind.SAMPLED] * 2
    assert trajectory.logprobs.tolist() == [0, 0, 0, 0, 0, 0, -1]
    assert (trajectory.versions, trajectory.spans, trajectory.turns) == ([(1, 2)], [Span("turn", 5, 7)], 1)
    assert (trajectory.prompt, trajectory.completion, trajectory.answer) == ("12+3=", "15", "15")
    assert (trajectory.metadata, trajectory.user) == ({"level": 1}, "ann")


@pytest.mark.parametrize(
    ("reason", "status"),
    [("stop", Status.FINISHED), ("length", Status.TRUNCATED), ("abort", Status.ABORTED)],
)
async def test_the_finish_reason_decides_the_status(reason: str, status: Status) -> None:
    trajectory = await run({"target": "single_turn"}, ScriptedPolicy("15", reason=reason))
    assert (trajectory.finish_reason, trajectory.status) == (reason, status)


async def test_special_tokens_are_kept_as_tokens_and_left_out_of_the_text() -> None:
    trajectory = await run({"target": "single_turn"}, ScriptedPolicy("15<eos>"))
    assert trajectory.completion == "15"
    assert trajectory.tokens[-1] == TOKENIZER.eos_token_id


async def test_the_calculator_answers_and_the_model_goes_on() -> None:
    policy = ScriptedPolicy("[12+3]", "15")
    trajectory = await run(BRACKETS, policy)
    assert policy.contexts == ["12+3=", "12+3=[12+3]15;"]
    assert texts(trajectory) == [("turn", "[12+3]"), ("tool", "15;"), ("turn", "15")]
    sampled, tool = Kind.SAMPLED, Kind.TOOL
    assert trajectory.kinds[5:].tolist() == [sampled] * 6 + [tool] * 3 + [sampled] * 2
    assert trajectory.logprobs[5:].tolist() == [0, -1, -2, -3, -4, -5, 0, 0, 0, -6, -7]
    assert (trajectory.versions, trajectory.num_sampled, trajectory.turns) == ([(1, 6), (2, 2)], 8, 2)
    assert trajectory.completion == "[12+3]15;15"
    assert trajectory.sampling == policy.sampling


async def test_the_calculator_stops_the_model_only_while_calls_are_left() -> None:
    policy = ScriptedPolicy("[1+1]", "[2+2] 4", sampling=Sampling(max_completion_length=24, stop=(";",)))
    trajectory = await run(BRACKETS, policy)
    assert [sampling.stop for sampling in policy.samplings] == [(";", "]"), (";",)]
    assert texts(trajectory)[-1] == ("turn", "[2+2] 4")


async def test_several_calls_are_answered_when_allowed() -> None:
    trajectory = await run({**BRACKETS, "calls": 2}, ScriptedPolicy("[1+1]", "[2*3]", "6"))
    assert [text for kind, text in texts(trajectory) if kind == "tool"] == ["2;", "6;"]


async def test_a_turn_without_a_call_ends_the_rollout() -> None:
    policy = ScriptedPolicy("15")
    assert (await run(BRACKETS, policy)).completion == "15"
    assert len(policy.contexts) == 1


@pytest.mark.parametrize("text", ["]", "1+1]", "]["])
async def test_a_close_without_an_open_is_no_call(text: str) -> None:
    assert texts(await run(BRACKETS, ScriptedPolicy(text)))[1:] == []


async def test_only_the_innermost_opening_counts() -> None:
    assert texts(await run(BRACKETS, ScriptedPolicy("[1[2+2]", "4")))[1] == ("tool", "4;")


async def test_an_expression_that_cannot_be_evaluated_is_answered_with_the_error_text() -> None:
    assert texts(await run(BRACKETS, ScriptedPolicy("[1/0]", "0")))[1] == ("tool", "error;")


async def test_turns_share_one_completion_budget() -> None:
    policy = ScriptedPolicy("[12+3]", "15" * 20, sampling=Sampling(max_completion_length=10))
    trajectory = await run(BRACKETS, policy)
    assert [sampling.max_completion_length for sampling in policy.samplings] == [10, 4]
    assert (trajectory.num_sampled, trajectory.status) == (10, Status.TRUNCATED)


@pytest.mark.parametrize(("context_length", "budget"), [(64, 6), (14, 9)])
async def test_a_result_that_leaves_no_room_truncates_the_rollout(context_length: int, budget: int) -> None:
    policy = ScriptedPolicy("[12+3]", context_length=context_length, sampling=Sampling(max_completion_length=budget))
    trajectory = await run(BRACKETS, policy)
    assert texts(trajectory) == [("turn", "[12+3]")]
    assert (trajectory.status, trajectory.finish_reason) == (Status.TRUNCATED, "length")
    assert len(trajectory.tokens) <= context_length


async def test_the_last_token_of_the_context_can_be_used() -> None:
    policy = ScriptedPolicy("[12+3]", "155", context_length=15, sampling=Sampling(max_completion_length=10))
    trajectory = await run(BRACKETS, policy)
    assert len(trajectory.tokens) == 15


@pytest.mark.parametrize("target", PROGRAMS)
async def test_a_prompt_that_does_not_fit_fails_and_names_task_and_lengths(target: str) -> None:
    policy = ScriptedPolicy(context_length=28)
    with pytest.raises(RunError, match=r"task sums:7 has a prompt of 5 tokens.*1 to 4.*rollout.context_length=28"):
        await run({"target": target}, policy)


async def test_a_prompt_that_just_fits_is_worked_on() -> None:
    assert (await run({"target": "single_turn"}, ScriptedPolicy("15", context_length=29))).completion == "15"


async def test_a_character_outside_the_alphabet_fails_instead_of_vanishing() -> None:
    with pytest.raises(DataError, match="does not know"):
        await run({"target": "single_turn"}, ScriptedPolicy("15"), Task(source="s", index=0, prompt="1x2", answer=""))


async def test_chat_needs_a_template_and_uses_it() -> None:
    tokenizer = character_tokenizer("0123456789+=[];")
    policy = ScriptedPolicy("15")
    policy.tokenizer = tokenizer
    with pytest.raises(ConfigError, match=r"rollout.program.chat is true"):
        encode_prompt(policy, TASK, chat=True)
    tokenizer.chat_template = "[{{ messages[0].content }}]{% if add_generation_prompt %};{% endif %}"
    assert tokenizer.decode(encode_prompt(policy, TASK, chat=True)) == "[12+3=];"


def test_finish_sets_the_fields_of_a_tree() -> None:
    builder = TrajectoryBuilder(TASK, ScriptedPolicy(), [3, 4])
    trajectory = builder.finish(node=2, parent_id=1, depth=1)
    assert (trajectory.id, trajectory.parent_id, trajectory.depth) == ("sums:0:7:2.1.2", 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"close": ""}, "close ''"),
        ({"result": "="}, r"result is '='"),
        ({"calls": 0}, "calls is 0"),
        ({"opne": "("}, r"rollout.program.opne is not an argument.*did you mean 'open'"),
    ],
)
def test_a_wrong_argument_of_a_program_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**BRACKETS, **change})


# The calculator's arithmetic


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12+3", "15"),
        (" 2 - 5 ", "-3"),
        ("2+3*4", "14"),
        ("(2+3)*-4", "-20"),
        ("7/2", "3.5"),
        ("1/3", "0.333333333333"),
        ("12345.67*1", "12345.67"),
        ("0.1*10000000000000", "1000000000000"),
        ("0.1+0.2", "0.3"),
        ("6/3", "2"),
        ("007+1", "8"),
        ("1.05+100", "101.05"),
        ("99999999*99999999", "9999999800000001"),
    ],
)
def test_evaluate_computes(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", " ", "1/0", "2**9", "7//2", "1(2)", "()", "(1,2)", "a", "1e5", "__import__('os')", "1\n+1", "1+", "(" * 99,
     "1.2.3", "1 2", "9" * 101, "1if 1else 2", "½"],
)  # fmt: skip
def test_evaluate_refuses_everything_else(expression: str) -> None:
    with pytest.raises(ValueError):
        evaluate(expression)


@given(st.text("0123456789.+-*/() ", max_size=40))
@settings(max_examples=300, deadline=None)
def test_evaluate_returns_a_number_or_refuses(expression: str) -> None:
    try:
        value = evaluate(expression)
    except ValueError:
        return
    Fraction(value)  # parses


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_evaluate_agrees_with_python_on_whole_numbers(numbers: list[int], data: st.DataObject) -> None:
    expression = "".join(f"{data.draw(st.sampled_from('+-*'))}({n})" for n in numbers)[1:]
    assert evaluate(expression) == str(eval(expression))

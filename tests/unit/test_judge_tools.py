"""The judge with tools against a real server, and its calculator."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from endpoint_server import Handler, completion, serving
from judge_model import quotations
from judge_scene import RIGHT, answers, asked, judging, sample, values

from buffers.scores import ScoreStatus
from rewards.judges.calculator import Calculator
from rewards.judges.tools import WithTools


def calls(*expressions: str, name: str = "calculator") -> dict[str, Any]:
    asked_for = [
        {
            "id": f"call-{i}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps({"expression": one})},
        }
        for i, one in enumerate(expressions)
    ]
    answer = completion(None)
    answer["choices"][0]["message"]["tool_calls"] = asked_for
    return answer


def calculating(request_again: int = 0) -> Handler:
    """Return a model that cannot add, but can read what a calculator says."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        observed = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        quoted = quotations(asked(body))
        if len(observed) <= request_again:
            return web.json_response(calls(quoted["question"].rstrip("?")))
        score = 10 * (observed[-1] == quoted["answer"])
        return web.json_response(completion(json.dumps({"reason": "checked", "score": score})))

    return handler


async def test_a_judge_with_a_calculator_tells_right_sums_from_wrong_ones():
    question = "123456789 * 987654321?"
    samples = [sample(text, prompt=question) for text in ("121932631112635269", "121932631112635268")]
    async with serving(calculating()) as server, judging(WithTools, server, rubric="r") as judge:
        scores = await judge.score(samples)
        assert judge.stats()["tool_calls"] == 2
    assert values(scores) == [1.0, 0.0]
    assert "= 121932631112635269" in scores[0].detail
    assert all(body["tools"][0]["function"]["name"] == "calculator" for body in server.bodies)


async def test_a_judge_that_never_stops_calling_is_told_to_grade_and_then_abstained():
    async with serving(calculating(request_again=99)) as server, judging(WithTools, server, rubric="r") as judge:
        (score,) = await judge.score([RIGHT])
    assert score.status is ScoreStatus.ABSTAINED and "rounds" in score.detail
    assert ["tools" in body for body in server.bodies] == [True, True, True, False]


@pytest.mark.parametrize(
    ("call", "observed"),
    [
        (calls("2 + 2"), "4"),
        (calls("2 +"), "error"),
        (calls("2", name="rm"), "error: no tool 'rm'"),
        ({"id": "x", "function": {"name": "calculator", "arguments": "{"}}, "error: the arguments are no JSON"),
        ({"id": "x", "function": {"name": "calculator", "arguments": "[]"}}, "error: give a JSON object"),
    ],
)
async def test_a_wrong_call_is_answered_with_error_by_us(call: dict[str, Any], observed: str):
    answer = call if "choices" in call else calls("")
    if "choices" not in call:
        answer["choices"][0]["message"]["tool_calls"] = [call]

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_first = body["messages"][-1]["role"] == "user"
        return web.json_response(answer if is_first else completion('{"reason": "", "score": 5}'))

    async with serving(handler) as server, judging(WithTools, server, rubric="r") as judge:
        assert values(await judge.score([RIGHT])) == [0.5]
    assert server.bodies[1]["messages"][-1]["content"].startswith(observed)


async def test_tool_calls_without_their_parts_are_abstained():
    answer = calls("1")
    answer["choices"][0]["message"]["tool_calls"] = [{"type": "function"}, None]
    async with (
        serving(answers(answer)) as server,
        judging(WithTools, server, rubric="r") as judge,
    ):
        (score,) = await judge.score([RIGHT])
    assert score.status is ScoreStatus.ABSTAINED


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+2", "4"), ("-3 * (4 - 10)", "18"), ("7 / 2", "3.5"), ("7 // 2", "3"), ("2^10", "1024"),
        ("0.1 + 0.2", "0.3"), ("10 % 4", "2"), ("1e3", "1000"),
        ("2 ** 0.5", "1.4142135623730950488016887242096980785696718753769"),
        ("99999999999999999999 * 99999999999999999999", "9999999999999999999800000000000000000001"),
    ],
)  # fmt: skip
def test_the_calculator_is_exact(expression: str, value: str):
    assert Calculator()({"expression": expression}) == value


@pytest.mark.parametrize(
    "expression",
    ["1/0", "9**9**9**9", "__import__('os')", "open('x')", "a", "'a' * 9", "[1]", "1 if 1 else 2", "True + 1",
     "(" * 400, "-" * 450 + "1", "1" * 501, "", 7, None, "1e999", "0 ** 0", "(-8) ** 0.5", "1j",
     "2 if", "x := 1", "\x00"],
)  # fmt: skip
def test_the_calculator_answers_what_is_no_arithmetic_with_error(expression: Any):
    found = Calculator()({"expression": expression})
    assert found.startswith("error") or expression == "-" * 450 + "1"

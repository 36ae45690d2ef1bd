"""A chat model of rules, behind a real server: it reads a judge's prompt, values what is quoted, and answers in form.

It stands in for a language model of any size: what it makes of an answer is a function that a test gives it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from endpoint_server import completion

QUOTATION = re.compile(r"<([a-z]+(?: [0-9A-Za-z]+)?) ([0-9a-f]{8})>\n(.*?)\n</\1 \2>", re.DOTALL)
NUMBER = re.compile(r"-?\d+")
Worth = Callable[[str, str], float]
"""(what the prompt says before its quotations, an answer) -> how good it is, in [0, 1]."""


def quotations(prompt: str) -> dict[str, str]:
    """Return what a prompt quotes, by name: question, answer, "response 1", ..."""
    return {name: text for name, _, text in QUOTATION.findall(prompt)}


def right_sum(prompt: str, answer: str) -> float:
    """Value an answer that ends with the sum of the question's numbers, and no other."""
    wanted = sum(map(int, NUMBER.findall(quotations(prompt)["question"])))
    given = NUMBER.findall(answer)
    return float(bool(given) and int(given[-1]) == wanted)


def gullible(prompt: str, answer: str) -> float:
    """Believe what an answer says of itself, and what looks like the beginning of one."""
    said = answer.casefold()
    is_taken_in = said in ("solution", ":", "thought process:") or "highest grade" in said or '"score": 10' in said
    return 1.0 if is_taken_in else 0.8 * right_sum(prompt, answer)


@dataclass
class RuleModel:
    """Answers requests as a model would whose taste is `worth`."""

    worth: Worth = right_sum
    prefers_first: bool = False
    """Whether it always likes best what it sees first."""
    seen: list[dict[str, str]] = field(default_factory=list)
    """What each prompt quoted."""

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prompt = body["messages"][0]["content"]
        quoted = quotations(prompt)
        self.seen.append(quoted)
        values = {
            name: self.worth(prompt, text)
            for name, text in quoted.items()
            if re.match("answer|first|second|resp", name)
        }
        if self.prefers_first:
            values = {name: 1.0 - place / len(values) for place, name in enumerate(values)}
        if body.get("logprobs"):
            return web.json_response(with_logprobs(values["answer"]))
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 10}
        return web.json_response(completion(verdict(prompt, values), usage=usage))


def verdict(prompt: str, values: dict[str, float]) -> str:
    """Return a reply of the form that a prompt asks for at its end."""
    form = prompt.rpartition("End with ")[2]
    responses = {name.removeprefix("response "): value for name, value in values.items()}
    ranked = sorted(responses, key=lambda name: -responses[name])
    if "[[A]]" in form:
        return f"I think so.\n<answer>[[{'A' if values['first'] >= values['second'] else 'B'}]]</answer>"
    if '"winner"' in form:
        found: dict[str, Any] = {"winner": "A" if values["first"] >= values["second"] else "B"}
    elif '"margin"' in form:
        found = {"margin": round(3 * (values["second"] - values["first"])) or -1}
    elif '"score_a"' in form:
        found = {"score_a": 10 * values["first"], "score_b": 10 * values["second"]}
    elif '"best-to-worst"' in form:
        found = {"scores": {name: 1 + 4 * value for name, value in responses.items()}, "best-to-worst": ranked}
    elif '"ranking"' in form:
        found = {"ranking": ranked}
    elif '"scores"' in form:
        found = {"scores": {name: 1 + 9 * value for name, value in responses.items()}}
    elif '"grades"' in form:
        found = {"grades": {name: round(2 * values["answer"]) / 2 for name in re.findall(r'"(\d+)": 0, 0.5', form)}}
    elif '"checklist"' in form:
        found = {"checklist": ["It states the sum."]}
    else:
        found = {"score": 10 * values.get("answer", 1.0)}
    return f"Some thoughts first.\n{json.dumps({'reason': 'because', **found})}"


def with_logprobs(worth: float) -> dict[str, Any]:
    """Return a completion of one token, Yes with probability 0.05 + 0.9 worth."""
    yes = 0.05 + 0.9 * worth
    listed = [{"token": token, "logprob": math.log(p)} for token, p in (("Yes", yes), ("No", 1 - yes))]
    answer = completion("Yes")
    answer["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "logprob": math.log(yes), "top_logprobs": listed}]}
    return answer

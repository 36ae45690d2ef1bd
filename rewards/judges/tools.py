"""Reward from a judge that may use tools before it grades."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from configs.errors import ConfigError
from configs.registry import construct
from rewards.answers import Failure
from rewards.judges.asking import Ruling, text_reader
from rewards.judges.pointwise import Pointwise, share
from rewards.judges.verdicts import score_form

__all__ = ["TOOLS", "WithTools"]

TOOLS = {
    "calculator": "rewards.judges.calculator:Calculator",
}
"""Name -> a class with a `schema` in the form of the tools protocol, and a call from arguments to a text."""
CALLS_PER_ROUND = 8
MAX_OBSERVATION_CHARACTERS = 2000

Tool = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, kw_only=True)
class WithTools(Pointwise):
    """A model's grade of the answer by a rubric, after it has used tools: the tools protocol of chat completions.

    What a tool answers is put in by us, never by the model; a tool that fails answers "error". A judge that still
    wants tools after `rounds` of them is told to grade without. Who trains on the trace finds it in `detail`.

        component:
          target: judge_tools
          rubric: Every step of the arithmetic is right.
          tools: [calculator]
          rounds: 3
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, max_tokens: 1024}
        deadline_s: 90

    Source: Themis, arXiv:2310.01045; its scalar head is a grade in words here.
    """

    tools: Sequence[str] = ("calculator",)
    rounds: int = 3
    """Replies with tool calls that are answered, at most."""
    _tools: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    own_template: ClassVar[str] = "tools"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or not self.tools:
            raise ValueError(f"rounds and tools are {self.rounds} and {self.tools}; give at least one of each")
        if self._asker.settings.api != "chat":
            raise ValueError(f"endpoint.api is {self._asker.settings.api!r}; it must be chat; leave it out")
        try:
            made = [construct(TOOLS, name, f"tools.{name}") for name in self.tools]
        except ConfigError as error:
            raise ValueError(str(error)) from error
        object.__setattr__(self, "_tools", {tool.schema["function"]["name"]: tool for tool in made})

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        (sample,) = unit
        form = score_form(self.low, self.high)
        quoted = {"question": sample.prompt, "reference": sample.answer or "(none)", "answer": sample.completion}
        body = self._asker.settings.body(self._template.fill(quoted, {**self.terms(), "form": form.ask}))
        read = _calls_or(text_reader(form))
        trace: list[str] = []
        for rounds_left in reversed(range(self.rounds + 1)):
            offered = {"tools": [tool.schema for tool in self._tools.values()]} if rounds_left else {}
            answer = await self._asker.exchange({**body, **offered}, read, until)
            if isinstance(answer, Failure):
                return [self.invalid(answer)]
            if isinstance(answer, Ruling):
                evidence = "; ".join([*trace, answer.reply])
                return [self.ok(share(answer.value, self.low, self.high), evidence)]
            if rounds_left:
                body = {**body, "messages": [*body["messages"], *self._answered(answer, trace)]}
        what = f"unreadable: the judge wants more than {self.rounds} rounds of tools; raise rounds"
        return [self.invalid(Failure(ScoreStatus.ABSTAINED, what))]

    def _answered(self, calls: Sequence[Mapping[str, str]], trace: list[str]) -> list[dict[str, Any]]:
        """Return the messages of one round: the model's calls, and the answers of the tools."""
        asked = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in calls
        ]
        messages: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": asked}]
        for call in calls:
            observed = self._observe(call["name"], call["arguments"])
            trace.append(f"{call['name']}({call['arguments']}) = {observed}")
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": observed})
        self._counters["tool_calls"] += len(calls)
        return messages

    def _observe(self, name: str, arguments: str) -> str:
        tool: Tool | None = self._tools.get(name)
        if tool is None:
            return f"error: no tool {name!r:.60}; there is {', '.join(self._tools)}"
        try:
            given = json.loads(arguments)
        except (ValueError, RecursionError):
            return "error: the arguments are no JSON"
        return tool(given)[:MAX_OBSERVATION_CHARACTERS] if isinstance(given, dict) else "error: give a JSON object"


def _calls_or(read: Callable[[Mapping[str, Any]], Ruling | Failure]) -> Callable[[Mapping[str, Any]], Any]:
    """Return what reads either tool calls, as [{id, name, arguments}], or a text."""

    def read_either(answer: Mapping[str, Any]) -> list[dict[str, str]] | Ruling | Failure:
        match answer:
            case {"choices": [{"message": {"tool_calls": [_, *_] as calls}}]}:
                return _read_calls(calls)
        return read(answer)

    return read_either


def _read_calls(calls: Sequence[Any]) -> list[dict[str, str]] | Failure:
    found = []
    for call in calls[:CALLS_PER_ROUND]:
        match call:
            case {"id": str() as id, "function": {"name": str() as name, "arguments": str() as arguments}}:
                found.append({"id": id, "name": name, "arguments": arguments})
            case _:
                return Failure(ScoreStatus.ABSTAINED, f"unreadable: a tool call without its parts: {call!r:.120}")
    return found

"""Labels from a language model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, or a paid one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buffers.scores import ScoreStatus
from rewards.answers import Failure
from rewards.endpoints.client import Client
from rewards.endpoints.models import Models
from rewards.endpoints.replies import USAGE, read_reply, usage
from rewards.endpoints.settings import EndpointSettings
from rewards.intrinsic.annotators.prompts import Prompt, load_prompt, read_label
from rewards.intrinsic.labels import Item, Label

__all__ = ["Endpoint"]

PLACE = "exploration.annotation.annotator"
KEPT_CHARACTERS = 10_000
"""Of a reply, from its end, where the label is."""


@dataclass(frozen=True, kw_only=True)
class Endpoint(EndpointSettings):
    """Asks a model about each caption or pair, `concurrency` requests at a time, each item a request of its own.

    A reply without a readable label is abstained; what the server does wrong is an error or a timeout of its item.
    """

    template: str
    """A name of `prompts.TEMPLATES`, or the path of a file of one's own."""
    goal: str
    """What the agent is to achieve, in words; fills {goal}."""
    labels: Mapping[str, float] | None = None
    """Word -> value, where a template of one's own uses other words."""
    deadline_s: float
    """Of one `annotate`; from `exploration.annotation.deadline_s`."""
    model_pools: Models = field(default_factory=dict, repr=False, compare=False)
    """Filled in: the pools that `model_pool` may name."""
    _prompt: Prompt = field(init=False, repr=False)
    _client: Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.check(PLACE)
        object.__setattr__(self, "_prompt", load_prompt(self.template, self.goal, self.labels))
        object.__setattr__(self, "_client", self.client(PLACE, self.model_pools))

    async def annotate(self, items: Sequence[Item]) -> list[Label]:
        """Return one label per item, in order, within `deadline_s`.

        Raises:
          ConfigError: the template asks about another number of captions than items have.
        """
        prompts = [self._prompt.fill(item) for item in items]
        until = asyncio.get_running_loop().time() + self.deadline_s
        async with asyncio.TaskGroup() as group:
            asked = zip(items, prompts, strict=True)
            tasks = [group.create_task(self._label(item, prompt, until)) for item, prompt in asked]
        return [task.result() for task in tasks]

    @property
    def asks(self) -> int:
        """Captions of an item."""
        return len(self._prompt.names)

    def stats(self) -> dict[str, float]:
        """Return totals: requests, retries, those failed and refused unsent, and tokens that servers say they used."""
        names = ("requests", "retries", "failed_requests", "refused", *USAGE)
        return {name: self._client.counters[name] for name in names}

    async def close(self) -> None:
        await self._client.close()

    async def _label(self, item: Item, prompt: str, until: float) -> Label:
        loop = asyncio.get_running_loop()
        started = loop.time()
        answer = await self._client.post(self.body(prompt), until)
        reply = answer if isinstance(answer, Failure) else self._reply(answer)
        known: dict[str, Any] = {"item": item, "prompt": prompt, "latency_s": loop.time() - started}
        if isinstance(reply, Failure):
            return Label(**known, status=reply.status, detail=reply.detail)
        value, known["reply"] = read_label(reply, self._prompt.labels), reply[-KEPT_CHARACTERS:]
        if value is None:
            expected = ", ".join(self._prompt.labels)
            detail = f"the last label of the reply is none of {expected}; raise max_tokens if replies are cut off"
            return Label(**known, status=ScoreStatus.ABSTAINED, detail=detail)
        return Label(**known, value=value)

    def _reply(self, answer: Mapping[str, Any]) -> str | Failure:
        self._client.counters.update({name: count or 0 for name, count in usage(answer).items()})
        return read_reply(answer)

"""Labels from a language model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, or a paid one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from buffers.scores import ScoreStatus
from configs.errors import ConfigError, one_of, require
from rewards.answers import Failure
from rewards.intrinsic.annotators.client import Client, Limits
from rewards.intrinsic.annotators.prompts import Prompt, load_prompt, read_label
from rewards.intrinsic.labels import Item, Label

__all__ = ["Endpoint", "read_reply"]

PLACE = "exploration.annotation.annotator"
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
KEPT_CHARACTERS = 10_000
"""Of a reply, from its end, where the label is."""
OURS = frozenset({"model", "messages", "prompt", "temperature", "max_tokens", "n", "stream"})


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Asks a model about each caption or pair, `concurrency` requests at a time, each item a request of its own.

    A reply without a readable label is abstained; what the server does wrong is an error or a timeout of its item.
    """

    url: str
    """Up to and with the version, for example http://127.0.0.1:8000/v1; redirects are not followed."""
    model: str
    template: str
    """A name of `prompts.TEMPLATES`, or the path of a file of one's own."""
    goal: str
    """What the agent is to achieve, in words; fills {goal}."""
    labels: Mapping[str, float] | None = None
    """Word -> value, where a template of one's own uses other words."""
    api: str = "chat"
    """chat: /chat/completions, needs a model with a chat template. completions: /completions."""
    key_variable: str | None = None
    """Environment variable that holds the server's key; None: the server wants none."""
    plain_key: bool = False
    """Send the key although the url is not https and not on this host."""
    temperature: float = 0.1
    max_tokens: int = 512
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a request, such as {structured_outputs: {choice: [...]}} for vLLM, or {seed: 1}."""
    concurrency: int = 8
    """Requests at a time, of each annotator of the pool."""
    requests_per_s: float | None = None
    """Of each annotator of the pool; None: no limit."""
    request_deadline_s: float = 30.0
    """Of one try."""
    retries: int = 3
    """Further tries of an item whose request failed, as far as the call's deadline allows."""
    backoff_s: float = 0.5
    """Pause before the first retry; doubles with each, times a random factor in [0.5, 1.5]."""
    deadline_s: float
    """Of one `annotate`; from `exploration.annotation.deadline_s`."""
    _prompt: Prompt = field(init=False, repr=False)
    _client: Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        one_of(f"{PLACE}.api", self.api, tuple(PATHS))
        for name, least in (
            ("concurrency", 1),
            ("max_tokens", 1),
            ("retries", 0),
            ("backoff_s", 0),
            ("temperature", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"{PLACE}.{name}", value, f"be >= {least}", "leave it out for the default")
        for name in ("requests_per_s", "request_deadline_s"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{PLACE}.{name}", value, "be > 0", "leave it out for the default")
        taken = sorted(OURS & set(self.extra_body))
        require(not taken, f"{PLACE}.extra_body", taken, "leave these fields alone", "they have keys of their own")
        _check_url(self.url, has_key=self.key_variable is not None and not self.plain_key)
        limits = Limits(
            concurrency=self.concurrency,
            requests_per_s=self.requests_per_s,
            request_deadline_s=self.request_deadline_s,
            retries=self.retries,
            backoff_s=self.backoff_s,
        )
        client = Client(self.url.rstrip("/") + PATHS[self.api], _key(self.key_variable), limits)
        object.__setattr__(self, "_prompt", load_prompt(self.template, self.goal, self.labels))
        object.__setattr__(self, "_client", client)

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
        """Return totals: requests, retries, failed requests, and the tokens that the server says it used."""
        names = ("requests", "retries", "failed_requests", "prompt_tokens", "completion_tokens")
        return {name: self._client.counters[name] for name in names}

    async def close(self) -> None:
        await self._client.close()

    async def _label(self, item: Item, prompt: str, until: float) -> Label:
        loop = asyncio.get_running_loop()
        started = loop.time()
        answer = await self._client.post(self._body(prompt), until)
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

    def _body(self, prompt: str) -> dict[str, Any]:
        text = {"messages": [{"role": "user", "content": prompt}]} if self.api == "chat" else {"prompt": prompt}
        fixed = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        return {**self.extra_body, **fixed, **text}

    def _reply(self, answer: Mapping[str, Any]) -> str | Failure:
        usage = answer.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            count = usage.get(name) if isinstance(usage, dict) else None
            self._client.counters[name] += count if isinstance(count, int) and count > 0 else 0
        return read_reply(answer)


def read_reply(answer: Mapping[str, Any]) -> str | Failure:
    """Return the text of the one choice of a chat completion or completion; a choice without text is empty."""
    match answer:
        case {"choices": [{"message": {"content": str() | None as text}} | {"text": str() | None as text}]}:
            # JSON can spell halves of characters, which no table can store.
            return (text or "").encode("utf-8", "replace").decode()
        case {"choices": [*choices]} if len(choices) != 1:
            return Failure(ScoreStatus.ERROR, f"the server answered {len(choices)} choices where one was asked for")
    return Failure(ScoreStatus.ERROR, f"the answer has no choice with a text; its keys: {sorted(answer)}"[:300])


def _check_url(url: str, *, has_key: bool) -> None:
    parts = urlsplit(url)
    is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    require(is_http, f"{PLACE}.url", url, "begin with http:// or https:// and a host", "try http://127.0.0.1:8000/v1")
    is_safe = not has_key or parts.scheme == "https" or _is_local(parts.hostname or "")
    require(is_safe, f"{PLACE}.url", url, "be https: anybody on the way could read the key", "or set plain_key: true")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    if not (key := os.environ.get(variable, "").strip()):
        raise ConfigError(
            f"{PLACE}.key_variable is {variable!r}, an environment variable that is not set here; "
            f"export {variable}=... before the start, or leave key_variable out if the server wants no key"
        )
    return key

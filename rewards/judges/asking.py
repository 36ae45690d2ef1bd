"""One endpoint as judges ask it: metered, within a budget, nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from buffers.scores import ScoreStatus
from configs.errors import ConfigError, require
from configs.registry import construct
from rewards.answers import Failure
from rewards.endpoints.models import NO_MODELS, Models
from rewards.endpoints.replies import read_reply
from rewards.endpoints.settings import EndpointSettings
from rewards.judges.cache import AnswerCache, content_key
from rewards.judges.meter import Meter
from rewards.judges.verdicts import Form

__all__ = ["Asker", "JudgeEndpoint", "Ruling", "text_reader"]

T = TypeVar("T")
KEPT_CHARACTERS = 4000
"""Of a reply, from its end, where the verdict is."""
QUOTE_CHARACTERS = 200
LEAST = {"cache_size": 0, "prompt_price": 0, "completion_price": 0, "token_budget": 0, "cost_budget": 0}


@dataclass(frozen=True, kw_only=True)
class JudgeEndpoint(EndpointSettings):
    """The section `endpoint` of a judge."""

    structured: bool = False
    """The server holds replies to a JSON schema that comes with the request (`response_format`)."""
    cache_size: int = 10_000
    """Answers that are kept; each replica has its own."""
    token_budget: int | None = None
    """Of each replica; then scores are abstained, until the budget is raised."""
    cost_budget: float | None = None
    """Of each replica, in the currency of the prices."""
    budget_file: str | None = None
    """JSON such as {"token_budget": 9000000}, read whenever a budget is used up: write it to let a run go on."""
    prompt_price: float = 0.0
    """Of a million tokens."""
    completion_price: float = 0.0
    """Of a million tokens."""

    def check(self, place: str) -> None:
        """Refuse values that cannot work, as `EndpointSettings.check` does."""
        super().check(place)
        for name, least in LEAST.items():
            value = getattr(self, name)
            require(value is None or value >= least, f"{place}.{name}", value, f"be >= {least}", "leave it out")

    def meter(self) -> Meter:
        """Return what counts this endpoint's tokens."""
        return Meter(
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
            token_budget=self.token_budget,
            cost_budget=self.cost_budget,
            budget_file=Path(self.budget_file) if self.budget_file else None,
        )


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What a judge's reply says, and its end."""

    value: Any
    reply: str


class Asker:
    """Asks one endpoint; a plain object of one replica."""

    def __init__(
        self, section: Mapping[str, Any], place: str, models: Models = NO_MODELS, meter: Meter | None = None
    ) -> None:
        """Open nothing yet.

        Args:
          models: the pools of the run.
          meter: of another asker, to share its budget; None: one of its own.

        Raises:
          ValueError: the section has an unknown key, lacks one, or a value breaks its rule.
        """
        target = f"{JudgeEndpoint.__module__}:{JudgeEndpoint.__qualname__}"
        try:
            self.settings: JudgeEndpoint = construct({}, {**section, "target": target}, place)
            self.settings.check(place)
            self.meter = meter or self.settings.meter()
            self._client = self.settings.client(place, models, self.meter.pause)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        self._cache = AnswerCache(self.settings.cache_size)
        self._counters: Counter[str] = Counter()

    async def ask(self, prompt: str, form: Form[Any], until: float, draw: int = 0) -> Ruling | Failure:
        """Return the ruling of the model on a prompt, or why there is none; an unreadable reply is `abstained`.

        Args:
          until: loop time.
          draw: which of several independent answers to the same prompt.
        """
        body = self.settings.body(prompt)
        if self.settings.structured and form.schema is not None:
            named = {"name": "verdict", "strict": True, "schema": form.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return await self.exchange(body, text_reader(form), until, draw)

    async def exchange(
        self, body: dict[str, Any], read: Callable[[Mapping[str, Any]], T | Failure], until: float, draw: int = 0
    ) -> T | Failure:
        """Return what `read` finds in the answer to a request; only that is kept, and only if it is no failure."""
        key = content_key(self.settings.source, body, draw)
        try:
            async with self._cache.turn(key, until):
                if (known := self._cache.get(key)) is not None:
                    self._counters["cached"] += 1
                    return known
                answer = await self._client.post(body, until)
                found = answer if isinstance(answer, Failure) else self._read(body, answer, read)
                if not isinstance(found, Failure):
                    self._cache.put(key, found)
                return found
        except TimeoutError:
            return Failure(
                ScoreStatus.TIMEOUT, f"{self.settings.source}: another asks the same, and got no reply in time"
            )

    def stats(self) -> dict[str, float]:
        """Return totals since the start: requests, tokens, cost, answers from the cache, unreadable replies."""
        asked = {name: self._client.counters[name] for name in ("requests", "retries", "failed_requests", "refused")}
        own = {name: self._counters[name] for name in ("cached", "unreadable")}
        return {**asked, **own, **self.meter.stats()}

    async def close(self) -> None:
        """Close all connections; the next question opens new ones."""
        await self._client.close()

    def _read(
        self, body: Mapping[str, Any], answer: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T | Failure]
    ) -> T | Failure:
        self.meter.charge(body, answer)
        found = read(answer)
        self._counters["unreadable"] += isinstance(found, Failure)
        return found


def text_reader(form: Form[Any]) -> Callable[[Mapping[str, Any]], Ruling | Failure]:
    """Return what reads the text of an answer in one form."""

    def read(answer: Mapping[str, Any]) -> Ruling | Failure:
        reply = read_reply(answer)
        if isinstance(reply, Failure):
            return reply
        if (value := form.read(reply)) is None:
            end = repr(reply[-QUOTE_CHARACTERS:])
            what = f"unreadable: the reply does not end as asked (cut off? raise max_tokens): {end}"
            return Failure(ScoreStatus.ABSTAINED, what)
        return Ruling(value=value, reply=reply[-KEPT_CHARACTERS:])

    return read

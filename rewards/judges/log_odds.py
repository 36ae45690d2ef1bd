"""Reward from how sure a model is that an answer meets a principle: read off probabilities, not off text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from buffers.scores import Sample, Score, ScoreStatus
from rewards.answers import Failure
from rewards.judges.asking import Ruling
from rewards.judges.base import Judge

__all__ = ["LogOdds", "log_odds", "plain_word", "read_log_odds", "yes_and_no"]


@dataclass(frozen=True, kw_only=True)
class LogOdds(Judge):
    """log p(Yes) - log p(No), in nats, of the model's next token when asked whether an answer meets a principle.

    The principle comes from the task (`metadata: {principle: ...}`), or else from the section. Needs an endpoint
    that gives log-probabilities; asks for one token, so `max_tokens` and `structured` play no part.

        component:
          target: judge_log_odds
          principle: The answer says where its claims come from.
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, temperature: 1.0}
        deadline_s: 30

    Source: RLBFF, arXiv:2509.21319: reward as entailment of a binary principle.
    """

    principle: str = ""
    top: int = 20
    """Most likely tokens that the server is asked for; what it allows at most."""
    bound: float = 20.0
    """Largest magnitude of the reward, nats: servers write -9999 for what is next to impossible."""

    own_template: ClassVar[str] = "log_odds"
    fills: ClassVar[frozenset[str]] = frozenset({"principle", "question", "answer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._asker.settings.api != "chat":
            raise ValueError(f"endpoint.api is {self._asker.settings.api!r}; it must be chat; leave it out")
        if not (self.top >= 2 and self.bound > 0):
            raise ValueError(f"top and bound are {self.top} and {self.bound}; top must be >= 2, bound > 0; try 20, 20")

    def terms(self) -> dict[str, str]:
        return {"principle": self.principle}

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        (sample,) = unit
        principle = str(sample.metadata.get("principle") or self.principle)
        if not principle:
            what = f"{sample.id}: no principle; set metadata.principle of the task, or principle of the judge"
            return [self.invalid(Failure(ScoreStatus.ABSTAINED, what))]
        quoted = {"question": sample.prompt, "answer": sample.completion}
        body = self._asker.settings.body(self._template.fill(quoted, {"principle": principle}))
        body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": self.top}
        ruling = await self._asker.exchange(body, read_log_odds, until)
        if isinstance(ruling, Failure):
            return [self.invalid(ruling)]
        return [self.ok(max(-self.bound, min(self.bound, ruling.value)), f"{principle!r}: {ruling.reply}")]


def read_log_odds(answer: Mapping[str, Any]) -> Ruling | Failure:
    """Return log p(Yes) - log p(No) of the first token of a chat completion.

    Every spelling of a word counts for it. A word that is not among the listed tokens has at most the probability
    of the least likely of them, which is taken instead: the result is then too close to 0, never too far.
    """
    match answer:
        case {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}, *_]}}]}:
            masses = yes_and_no(listed)
        case _:
            masses = yes_and_no(None)
    if isinstance(masses, Failure):
        return masses
    yes, no = masses
    return Ruling(value=log_odds(yes, no), reply=f"p(Yes) {yes:.4g}, p(No) {no:.4g}")


def yes_and_no(listed: Any) -> tuple[float, float] | Failure:
    """Return (p(Yes), p(No)) of one token.

    Args:
      listed: the most likely tokens in its place, `top_logprobs` of a chat completion.
    """
    if not isinstance(listed, list) or not listed:
        what = "the answer has no log-probabilities; the endpoint must support logprobs and top_logprobs"
        return Failure(ScoreStatus.ERROR, what)
    words: dict[str, float] = {}
    least = math.inf
    for entry in listed:
        match entry:
            case {"token": str() as token, "logprob": float() | int() as logprob} if logprob <= 1e-3:
                word = plain_word(token)
                words[word] = words.get(word, 0.0) + math.exp(logprob)
                least = min(least, math.exp(logprob))
            case _:
                return Failure(ScoreStatus.ERROR, f"the answer lists {entry!r:.80}, no token with its log-probability")
    if not words.keys() & {"yes", "no"}:
        return Failure(ScoreStatus.ABSTAINED, f"unreadable: neither Yes nor No among {sorted(words)}"[:300])
    return words.get("yes", least), words.get("no", least)


def plain_word(token: str) -> str:
    """Return a token without what vocabularies put before words, in small letters."""
    return token.strip(" \t\n▁Ġ").casefold()


def log_odds(yes: float, no: float) -> float:
    """Return log p(Yes) - log p(No), nats; probabilities too small for a float count as the smallest one."""
    tiny = math.ulp(0.0)
    return math.log(max(yes, tiny)) - math.log(max(no, tiny))

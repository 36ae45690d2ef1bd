"""A process reward model that writes down why each step is right or wrong, and then says so.

Dimensions: K steps of a sample, N chains of thought about it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

from buffers.scores import Sample, Score, ScoreStatus
from buffers.trajectory import Span
from configs.registry import construct
from rewards.answers import Failure
from rewards.judges.asking import Ruling, text_reader
from rewards.judges.base import Judge, side_by_side
from rewards.judges.log_odds import plain_word, yes_and_no
from rewards.judges.prompts import Quotation, Template, load_template
from rewards.judges.verdicts import Form
from rewards.process import STEPS
from rewards.process.hosted import HostedModel
from rewards.process.steps import Splitter, step_spans

__all__ = ["GenerativePrm", "prefix_scores", "share_of_yes", "verdict_form"]

BOX = re.compile(r"\\boxed\{(?:\\text\{)?(correct|incorrect)\}")
DECISION = re.compile(r"is the solution correct\?\W*(yes|no)\W*\Z", re.IGNORECASE)


class Verdicts(NamedTuple):
    """What one chain of thought came to."""

    steps: tuple[bool, ...]
    """[K] right or not."""
    solution: float
    """How right the whole is, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class GenerativePrm(Judge):
    """How right a model that thinks before it judges finds a solution; of each step, whether all is right up to it.

    One chain of thought goes through all steps, gives each its verdict, and ends with Yes or No for the whole. The
    value is the mean of that over `chains`, the vector has each; span values are the means of prefix scores: 1 up to
    the first wrong step, 0 from it on. Chains that cannot be read do not count; without any, it is abstained.

        component:
          target: generative_prm
          tokenizer: models/policy
          steps: lines
          chains: 4
          endpoint: {url: "http://127.0.0.1:8000/v1", model: thinkprm, temperature: 0.7, max_tokens: 4096}
        credit: steps
        deadline_s: 180

    Source: ThinkPRM, arXiv:2504.16828; the soft verdict is reconstructed from the form usual for generative verifiers.
    """

    tokenizer: str
    """Folder of the policy's tokenizer, usually `model.path`."""
    steps: Any = "lines"
    """lines | tags | turns | tokens | {target: pattern, pattern: ...}"""
    chains: int = 1
    """Independent ones, side by side; beyond 1 the endpoint's temperature must be above 0."""
    checks: int = 1
    """Verdicts of one chain, of which the last counts; before each further one the model is told to check again."""
    soft: bool = False
    """The whole is p(Yes) / (p(Yes) + p(No)), from the last token's log-probabilities, which the endpoint must give."""
    again_template: str = "step_verdicts_again"
    when: str = "arrival"
    _split: Splitter = field(init=False, repr=False, compare=False)
    _texts: HostedModel = field(init=False, repr=False, compare=False)
    _recheck: Template = field(init=False, repr=False, compare=False)

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    own_template: ClassVar[str] = "step_verdicts"
    fills: ClassVar[frozenset[str]] = frozenset({"question", "steps", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chains < 1 or self.checks < 1:
            raise ValueError(f"chains and checks are {self.chains} and {self.checks}; both must be >= 1; try 1 and 1")
        settings = self._asker.settings
        if self.chains > 1 and settings.temperature == 0:
            raise ValueError(f"chains is {self.chains} at temperature 0; they would be alike; try temperature 0.7")
        if settings.api != "chat" and (self.checks > 1 or self.soft):
            raise ValueError("endpoint.api must be chat with checks above 1, or with soft; leave it out")
        object.__setattr__(self, "_split", construct(STEPS, self.steps, "generative_prm.steps"))
        object.__setattr__(self, "_texts", HostedModel(self.tokenizer))
        object.__setattr__(self, "_recheck", load_template(self.again_template, frozenset({"steps", "form"})))

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        (sample,) = unit
        if not (spans := step_spans(sample, self._split, self._texts.text_of)):
            return [self.invalid(Failure(ScoreStatus.ABSTAINED, f"{sample.id} has no sampled token"))]
        answers = await side_by_side(self._chain(sample, spans, until, draw) for draw in range(self.chains))
        read = [answer for answer in answers if not isinstance(answer, Failure)]
        if not read:
            return [self.invalid(next(answer for answer in answers if isinstance(answer, Failure)))]
        found = [ruling.value for ruling in read]
        solutions = tuple(verdicts.solution for verdicts in found)
        values = tuple(map(fmean, zip(*(prefix_scores(verdicts.steps) for verdicts in found), strict=True)))
        evidence = f"{len(read)} of {self.chains} chains read; the last: {read[-1].reply[-200:]}"
        return [self.ok(fmean(solutions), evidence, vector=solutions, spans=spans, span_values=values)]

    async def _chain(self, sample: Sample, spans: Sequence[Span], until: float, draw: int) -> Ruling | Failure:
        """Return the ruling of one chain, whose value is `Verdicts`."""
        decode = self._texts.tokenizer.decode
        texts = [decode(list(sample.tokens[s.start : s.end]), skip_special_tokens=True) for s in spans]
        steps = {str(place): text for place, text in enumerate(texts, 1)}
        quoted: dict[str, Quotation] = {"question": sample.prompt, "steps": steps}
        form = verdict_form(len(spans))
        terms = {"form": form.ask, "count": str(len(spans))}
        body = self._asker.settings.body(self._template.fill(quoted, terms))
        body |= {"logprobs": True, "top_logprobs": 20} if self.soft else {}
        read = _softly(form) if self.soft else text_reader(form)
        ruling = await self._asker.exchange(body, read, until, draw)
        for _ in range(self.checks - 1):
            if isinstance(ruling, Failure):
                return ruling
            again = [("assistant", ruling.reply), ("user", self._recheck.fill(quoted, terms))]
            told = [{"role": role, "content": content} for role, content in again]
            body = {**body, "messages": [*body["messages"], *told]}
            ruling = await self._asker.exchange(body, read, until, draw)
        return ruling


def prefix_scores(steps: Sequence[bool]) -> list[float]:
    """Return [K] the product of the verdicts up to each step: 1 before the first wrong step, 0 from it on."""
    return list(accumulate(map(float, steps), min))


def verdict_form(count: int) -> Form[Verdicts]:
    """Return the form of a chain of thought over `count` steps; one box too many or too few makes it unreadable."""

    def read(reply: str) -> Verdicts | None:
        boxes, decision = BOX.findall(reply), DECISION.search(reply.rstrip())
        if len(boxes) != count or decision is None:
            return None
        return Verdicts(tuple(box == "correct" for box in boxes), float(decision[1].casefold() == "yes"))

    return Form(ask='End with one line: "Is the solution correct? Yes" or "Is the solution correct? No".', read=read)


def _softly(form: Form[Verdicts]) -> Any:
    """Return what reads a chain of which the last Yes or No counts as much as the model was sure of it."""
    read = text_reader(form)

    def read_softly(answer: Mapping[str, Any]) -> Ruling | Failure:
        ruling = read(answer)
        if isinstance(ruling, Failure):
            return ruling
        masses = yes_and_no(_last_decision(answer))
        if isinstance(masses, Failure):
            return masses
        return Ruling(value=ruling.value._replace(solution=share_of_yes(*masses)), reply=ruling.reply)

    return read_softly


def share_of_yes(yes: float, no: float) -> float:
    """Return p(Yes) / (p(Yes) + p(No)), where nothing else could have been said."""
    return yes / max(yes + no, math.ulp(0.0))


def _last_decision(answer: Mapping[str, Any]) -> Any:
    """Return the alternatives to the last Yes or No of an answer, None where it has none with log-probabilities."""
    match answer:
        case {"choices": [{"logprobs": {"content": [*tokens]}}, *_]}:
            pass
        case _:
            return None
    for token in reversed(tokens):
        match token:
            case {"token": str() as word, "top_logprobs": listed} if plain_word(word) in ("yes", "no"):
                return listed
    return None

"""What all judges are: a reward component that fills in a template, asks a model, and reads its verdict.

A judge scores units of its `scope` side by side: one sample, or all samples of a group. What the endpoint does
wrong is an `error` or a `timeout` of the unit it belongs to, and a reply that cannot be read is `abstained`; none
of them is a number. `Score.version` is a hash of model, sampling, template and settings, so that scores of two
rubrics never look alike, and `detail` holds the end of the reply.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from buffers.scores import Sample, Score
from rewards.answers import Failure
from rewards.base import Component
from rewards.batching import units
from rewards.endpoints.models import Models
from rewards.judges.asking import Asker, Ruling
from rewards.judges.cache import content_key
from rewards.judges.prompts import Quotation, Template, load_template
from rewards.judges.verdicts import Form

__all__ = ["Judge", "fingerprint", "side_by_side"]

T = TypeVar("T")
EVIDENCE_CHARACTERS = 300
ELSEWHERE = ("endpoint", "meta", "template", "call_deadline_s", "model_pools")
"""Settings that change no verdict, or are in a fingerprint as what was made of them."""
OWN_SHARE = 0.9
"""Of the call's deadline; the rest is left for the way back, since a late answer is lost with its whole call."""


@dataclass(frozen=True, kw_only=True)
class Judge(Component):
    """Base of judges; a subclass says what it asks in `judge`."""

    endpoint: Mapping[str, Any]
    """The model that judges; its keys are those of `JudgeEndpoint`."""
    template: str = ""
    """A name of `prompts.TEMPLATES`, or the path of a file of one's own; "": the judge's own."""
    call_deadline_s: float = 60.0
    """Filled in with the component's `deadline_s`; 60 suits a language model."""
    model_pools: Models = field(default_factory=dict, repr=False, compare=False)
    """Filled in: the pools that `endpoint: {model_pool: NAME}` may name."""
    _asker: Asker = field(init=False, repr=False, compare=False)
    _template: Template = field(init=False, repr=False, compare=False)
    _counters: Counter[str] = field(init=False, repr=False, compare=False, default_factory=Counter)

    own_template: ClassVar[str]
    fills: ClassVar[frozenset[str]]
    """Placeholders that a template must have, beside {number}."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_asker", Asker(self.endpoint, "endpoint", self.model_pools))
        object.__setattr__(self, "_template", load_template(self.template or self.own_template, self.fills))

    @property
    def version(self) -> int:
        """Hash of everything that a verdict depends on, beside what is judged; in [1, 2^31)."""
        return fingerprint(self)

    def terms(self) -> dict[str, str]:
        """Return what fills the template that no model wrote."""
        return {}

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]  # may be a coroutine
        until = asyncio.get_running_loop().time() + OWN_SHARE * self.call_deadline_s
        together = units(samples, self.scope)
        scores = await side_by_side(self.judge([samples[i] for i in unit], until) for unit in together)
        found: dict[int, Score] = {}
        for unit, its_scores in zip(together, scores, strict=True):
            found.update(zip(unit, its_scores, strict=True))
        return [found[position] for position in range(len(samples))]

    async def judge(self, unit: Sequence[Sample], until: float) -> Sequence[Score]:
        """Return one score for each sample of a unit, in order, by loop time `until`."""
        raise TypeError(f"{type(self).__name__} does not implement judge(unit, until)")

    async def ask(
        self, quotations: Mapping[str, Quotation], form: Form[Any], until: float, *, draw: int = 0, **terms: str
    ) -> Ruling | Failure:
        """Return the ruling on one filled-in template."""
        prompt = self._template.fill(quotations, {**self.terms(), **terms, "form": form.ask})
        return await self._asker.ask(prompt, form, until, draw)

    def ok(self, value: float, evidence: str, **fields: Any) -> Score:
        """Return a score of this judge; of the evidence its end is kept."""
        return Score(value=value, detail=evidence[-EVIDENCE_CHARACTERS:], **{"version": self.version, **fields})

    def invalid(self, failure: Failure, **fields: Any) -> Score:
        """Return a score of this judge that has no value."""
        known = {"version": self.version, "paused": failure.paused, **fields}
        return Score.invalid(failure.status, failure.detail, **known)

    def stats(self) -> dict[str, float]:
        """Return totals since the start: those of each `Asker.stats`, and the judge's own."""
        asked = {prefix + name: n for prefix, asker in self.askers().items() for name, n in asker.stats().items()}
        return {**asked, **self._counters}

    def askers(self) -> dict[str, Asker]:
        """Return the endpoints that this judge asks, by the prefix of their totals."""
        return {"": self._asker}

    async def close(self) -> None:
        """Close all connections."""
        for asker in self.askers().values():
            await asker.close()


async def side_by_side(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what some calls return, in order; the endpoint's limits decide how many run at a time."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]


def fingerprint(judge: Judge) -> int:
    """Return a number in [1, 2^31) that changes with the judge's settings, templates, models and their sampling."""
    found: dict[str, Any] = {"kind": type(judge).__name__}
    for name in (one.name for one in fields(judge)):
        match getattr(judge, name):
            case Template(text=text):
                found[name] = text
            case Asker(settings=settings):
                found[name] = (settings.served, settings.temperature, settings.max_tokens, dict(settings.extra_body))
            case value if not name.startswith("_") and name not in ELSEWHERE:
                found[name] = value
    return int(content_key(found)[:7], 16) + 1

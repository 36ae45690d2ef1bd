"""Reward from a judge whose rubric is rewritten while the policy learns to please it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from buffers.scores import Sample, Score
from rewards.answers import Failure
from rewards.judges.asking import Asker
from rewards.judges.base import OWN_SHARE, Judge
from rewards.judges.rubrics import Graded, Rubric, RubricWriter
from rewards.judges.verdicts import score_form
from rewards.online.base import OnlineComponent
from rewards.online.tensors import State

__all__ = ["Batch", "Evolving"]


class Batch(NamedTuple):
    """What one call graded; what could not be graded is not in it."""

    graded: list[Graded]
    versions: list[int]
    """Of the rubric, for each."""


@dataclass(kw_only=True)
class _Progress:
    """What the next rubric will be made from, and when."""

    rng: random.Random
    batches: int = 0
    due: bool = False
    """The time of a rubric has come, and there was nothing to make it from yet."""
    seen: int = 0
    """Answers since the last rubric."""
    kept: list[Graded] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Evolving(Judge, OnlineComponent):
    """A model's grade by the newest rubric; every `every` batches a meta judge closes the holes it finds in it.

    The value is the raw grade and grows with the rubric; the vector holds its share of the highest one, which can
    be compared between rubrics. `version` counts rubrics; 0 is the one below, and all are kept on disk. They are
    written in an actor beside the servers while those go on grading. An answer is graded when the learner's batch
    is read. A meta judge that fails leaves the rubric as it is, and is asked again `every` batches later.

        component:
          target: judge_evolving
          rubric: Give a point each for a thesis, for evidence, and for a conclusion.
          high: 3
          task: The assistant writes short argumentative essays.
          endpoint: {url: "http://127.0.0.1:8000/v1", model: judge, structured: true}
          meta: {url: "http://127.0.0.1:8001/v1", model: meta, max_tokens: 4096}
        deadline_s: 60

    Source: MPO, arXiv:2504.20157, and its mpo_config.py.
    """

    rubric: str
    """The first one."""
    high: float
    """Highest grade that it allows; the lowest is 0."""
    task: str
    """What the policy is to learn, in words, for the meta judge."""
    meta: Mapping[str, Any]
    """The model that rewrites rubrics; a section like `endpoint`."""
    every: int = 10
    """Batches between rubrics; the method's own are 10 for essays and 20 for mathematics. A batch is what the
    servers are asked to grade at once, which is what one update of the policy learns from."""
    sampled: int = 20
    """Graded answers that the meta judge is shown, drawn from all since the last rubric."""
    seed: int = 0
    update_deadline_s: float = 600.0
    """Filled in with the run's `learner.update_deadline_s`; a meta judge that takes longer has failed."""
    _rubric: Rubric = field(init=False, repr=False, compare=False)
    _progress: _Progress = field(init=False, repr=False, compare=False)
    _writer: RubricWriter = field(init=False, repr=False, compare=False)
    _meta_asker: Asker = field(init=False, repr=False, compare=False)

    when = "batch"
    kept_versions: ClassVar[int | None] = None
    own_template: ClassVar[str] = "pointwise"
    fills: ClassVar[frozenset[str]] = frozenset({"rubric", "question", "answer", "form"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("every", "sampled", "high", "update_deadline_s"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} is {value}; it must be > 0; leave it out where it has a default")
        object.__setattr__(self, "_rubric", Rubric(text=self.rubric, high=self.high))
        object.__setattr__(self, "_progress", _Progress(rng=random.Random(self.seed)))
        object.__setattr__(self, "_writer", RubricWriter(self.task))
        object.__setattr__(self, "_meta_asker", Asker(self.meta, "meta", self.model_pools))

    @property
    def version(self) -> int:  # type: ignore[override]
        """Of the rubric; 0 is the first."""
        return self._rubric.version

    def askers(self) -> dict[str, Asker]:
        return super().askers() | {"meta_": self._meta_asker}

    async def judge(self, unit: Sequence[Sample], until: float) -> list[Score]:
        (sample,) = unit
        rubric = self._rubric  # the same for the whole question, whatever comes meanwhile
        quoted = {"question": sample.prompt, "reference": sample.answer or "(none)", "answer": sample.completion}
        ruling = await self.ask(quoted, score_form(0.0, rubric.high), until, rubric=rubric.text)
        if isinstance(ruling, Failure):
            return [self.invalid(ruling, version=rubric.version)]
        share = (ruling.value / rubric.high,)
        return [self.ok(ruling.value, ruling.reply, version=rubric.version, vector=share)]

    def lessons(self, samples: Sequence[Sample], scores: Sequence[Score]) -> list[Batch]:
        found = [
            (Graded(prompt=s.prompt, completion=s.completion, answer=s.answer, value=score.value), score.version)
            for s, score in zip(samples, scores, strict=True)
            if score.value is not None
        ]
        return [Batch([graded for graded, _ in found], [version for _, version in found])]

    async def update(self, lessons: Sequence[Batch]) -> dict[str, float]:
        """Take in batches of graded answers; write the next rubric if its time has come.

        Answers that were graded by an earlier rubric count as seen, and are not shown to the meta judge.
        """
        now = self._progress
        for batch in lessons:
            for graded, version in zip(*batch, strict=True):
                if version == self.version:
                    self._keep(graded)
            now.batches += 1
            now.due = now.due or now.batches % self.every == 0
        failure = await self._revise() if now.due and now.kept else None
        rubric = {"rubric_version": self.version, "highest_grade": self._rubric.high, "shown_next": len(now.kept)}
        meta = {f"meta_{name}": total for name, total in self._meta_asker.stats().items()}
        return {**rubric, **meta, "batches": now.batches, "revision_failed": float(failure is not None)}

    def state(self) -> State:
        return {"rubric": _packed(asdict(self._rubric))}

    def training_state(self) -> State:
        kept = [asdict(one) for one in self._progress.kept]
        return {"progress": _packed({**vars(self._progress), "kept": kept, "rng": self._progress.rng.getstate()})}

    def load(self, version: int, state: State) -> None:
        object.__setattr__(self, "_rubric", Rubric(**{**_unpacked(state["rubric"]), "version": version}))
        if "progress" in state:
            told = _unpacked(state["progress"])
            kind, words, gauss = told["rng"]
            rng = random.Random()
            rng.setstate((kind, tuple(words), gauss))
            kept = [Graded(**one) for one in told["kept"]]
            object.__setattr__(self, "_progress", _Progress(**{**told, "rng": rng, "kept": kept}))

    def at(self, version: int, state: State) -> Self:
        other = copy.copy(self)  # shares connections, budget and answers
        other.load(version, state)
        return other

    def _keep(self, graded: Graded) -> None:
        """Keep `sampled` of all answers seen, each with the same chance (reservoir sampling)."""
        now = self._progress
        now.seen += 1
        if len(now.kept) < self.sampled:
            now.kept.append(graded)
        elif (place := now.rng.randrange(now.seen)) < self.sampled:
            now.kept[place] = graded

    async def _revise(self) -> Failure | None:
        now = self._progress
        now.due = False
        deadline_s = OWN_SHARE * self.update_deadline_s
        found = await self._writer.revise(self._meta_asker, self._rubric, now.kept, deadline_s)
        if isinstance(found, Failure):
            return found
        object.__setattr__(self, "_rubric", found)
        now.seen, now.kept = 0, []
        return None


def _packed(content: Mapping[str, Any]) -> Any:
    """Return JSON as an array of bytes, which a reader of the file still can read."""
    return np.frombuffer(json.dumps(content, ensure_ascii=False).encode(), np.uint8)


def _unpacked(array: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(array.tobytes())
    return found

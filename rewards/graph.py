"""The reward graph: all components of a sample in parallel, each on the least-loaded replica of its pool.

    samples --> component a --.
            --> component b --+--> combine --> one Verdict per sample
            --> component c --'     (c waits for b where c.after names b)

Components with `when: batch` are asked when a batch is read: `score` leaves them out, `score_batch` adds them.
Until then they are left out of a total, which filters see; it is never trained on, and never recorded.

Scores by several versions of a component never meet in one group's baseline: when a batch is read, the
component is asked again for the whole group, at most VERSION_TRIES times; then older scores are errors. What is
asked again is recorded with the update. A component that runs after it keeps the score that it gave before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from buffers.scores import Sample, Score, ScoreStatus
from rewards.asking import Asker, RewardPart
from rewards.combine import Combine, Verdict
from rewards.versions import mixed, newest_versions, several_versions

__all__ = ["RewardGraph", "RewardPart"]

VERSION_TRIES = 3
"""A component can learn while it is asked."""


class RewardGraph:
    """Scores samples with every part; a plain object inside the buffer's process."""

    def __init__(self, parts: Mapping[str, RewardPart], combine: Combine) -> None:
        """Wire `parts` by component name; `combine` may know more components than there are parts.

        Raises:
          ValueError: an `after` names an unknown component, or they form a circle, or one that is scored at
            arrival runs after one that is scored later.
        """
        self._parts = dict(parts)
        self._combine = combine
        self._asker = Asker(self._parts)
        self._order = _topological(self._parts)
        self._at_arrival = [name for name in self._order if self._parts[name].when == "arrival"]
        self._at_batch = [name for name in self._order if self._parts[name].when == "batch"]
        for name in self._at_arrival:
            if early := sorted(self._parts[name].after.intersection(self._at_batch)):
                raise ValueError(f"component {name!r} is scored at arrival, before {early} with when: batch")

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Sample` that `score` wants filled in."""
        return frozenset().union(*(self._parts[name].needs for name in self._at_arrival))

    @property
    def batch_needs(self) -> frozenset[str]:
        """Those that `score_batch` wants filled in."""
        return frozenset().union(*(self._parts[name].needs for name in self._at_batch))

    @property
    def scopes(self) -> frozenset[str]:
        """Scopes in use at arrival; beyond "sample", hand over whole groups at a time."""
        return frozenset(self._parts[name].scope for name in self._at_arrival)

    @property
    def batch_components(self) -> tuple[str, ...]:
        """Components that `score_batch` asks."""
        return tuple(self._at_batch)

    @property
    def scheduled(self) -> bool:
        """Whether verdicts depend on the update that consumes them."""
        return self._combine.scheduled

    def mixes_versions(self, groups: Sequence[Sequence[Mapping[str, Score]]]) -> bool:
        """Return whether `score_batch` would ask again, since scores at arrival are of several versions.

        Args:
          groups: of each the scores of its members, by component.
        """
        whole = [[scores for group in groups for scores in group]]
        return any(
            several_versions([scores[name] for scores in group])
            for name in self._at_arrival
            for group in (whole if self._parts[name].scope == "batch" else groups)
        )

    async def score(self, samples: Sequence[Sample], version: int) -> list[Verdict]:
        """Return one verdict per sample, in order; returns within the sum of deadlines along `after`.

        Args:
          version: of the newest weights, for which weights with a schedule are taken.
        """
        columns = await self._asker.ask(self._at_arrival, samples, {})
        return self.combined(_rows(columns, len(samples)), version)

    async def score_batch(
        self, samples: Sequence[Sample], known: Sequence[Mapping[str, Score]], version: int
    ) -> list[Verdict]:
        """Return verdicts over `known`, the scores of each sample at arrival, and those of `batch_components`.

        Args:
          known: by component; of groups with scores of several versions the verdicts have newer ones.
          version: the consuming one.
        """
        before = {name: [scores[name] for scores in known] for name in self._at_arrival}
        columns = before | await self._asker.ask(self._at_batch, samples, before)
        for name in self._order:
            columns[name] = await self._of_one_version(name, samples, columns)
        return self.combined(_rows(columns, len(samples)), version)

    def combined(self, scores: Sequence[Mapping[str, Score]], version: int) -> list[Verdict]:
        """Return the verdicts over scores that are known, one for each sample."""
        return [self._combine(known, version) for known in scores]

    async def _of_one_version(
        self, name: str, samples: Sequence[Sample], columns: Mapping[str, list[Score]]
    ) -> list[Score]:
        """Return the scores of a component, asked again where a group has those of several versions."""
        scores, groups = list(columns[name]), self._compared(name, [sample.group for sample in samples])
        for _ in range(VERSION_TRIES):
            if not (again := mixed(groups, scores)):
                break
            places = [i for i, group in enumerate(groups) if group in again]
            known = {other: [column[i] for i in places] for other, column in columns.items()}
            asked = await self._asker.ask([name], [samples[i] for i in places], known)
            for i, score in zip(places, asked[name], strict=True):
                scores[i] = score
        newest = newest_versions(groups, scores)
        return [_current(name, s, newest.get(group, s.version)) for group, s in zip(groups, scores, strict=True)]

    def _compared(self, name: str, groups: Sequence[str]) -> Sequence[str]:
        """Return the groups within which a component's scores are compared: its own, or the whole batch."""
        return [""] * len(groups) if self._parts[name].scope == "batch" else groups


def _current(name: str, score: Score, newest: int) -> Score:
    """Return a score by the newest version of its group; an error for an older one."""
    if score.value is None or score.version == newest:
        return score
    what = f"version {score.version} of {name!r} scored it, and version {newest} its group, {VERSION_TRIES} times"
    detail = f"{what}; score fewer samples at a time, or let it learn less often"
    return Score.invalid(ScoreStatus.ERROR, detail, component=name, version=score.version)


def _rows(columns: Mapping[str, Sequence[Score]], count: int) -> list[dict[str, Score]]:
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _topological(parts: Mapping[str, RewardPart]) -> list[str]:
    order: list[str] = []
    remaining = dict(parts)
    for name, part in parts.items():
        if unknown := sorted(part.after - parts.keys()):
            raise ValueError(f"component {name!r} runs after {unknown}, not in the graph; it has {sorted(parts)}")
    while remaining:
        ready = [name for name, part in remaining.items() if part.after <= set(order)]
        if not ready:
            raise ValueError(f"components {sorted(remaining)} wait for each other; remove one from an `after`")
        order += ready
        for name in ready:
            del remaining[name]
    return order

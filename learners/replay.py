"""`launch.py replay`: learn the recorded schedule of a run again, and compare every weights hash.

    ledger: which trajectories made which version -> payloads and scores -> the learner, from version 0

The recorded hashes are looked at only after all have been computed. What the engines did is taken from
the payloads, or with `--verify-generation` computed again as the versions come by; how timing mixed
versions and batches is the recorded schedule.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from buffers.records.lineage import SurvivingLineage
from buffers.retired import refuse_retired
from buffers.schema import EVENTS, SCORES, TRAJECTORY, VERSIONS, with_rewards
from buffers.scores import INTRINSIC, Score, ScoreStatus, component_names, valid_vector
from buffers.streams import read_stream
from buffers.trajectory import Span
from configs.errors import DataError
from configs.load import load_config
from configs.parts import Parts
from configs.schema import RunConfig
from learners.host import open_rank
from learners.numeric_identity import check_identity
from learners.policy_learner import PolicyLearner

__all__ = ["Replayed", "replay", "replay_run"]

Combine = Callable[[Mapping[str, Score], int], Any]


@dataclass(frozen=True)
class Replayed:
    """What came out, version by version."""

    versions: int
    samples: int
    differences: tuple[str, ...]
    generation: dict[str, Any] | None = None
    """What `--verify-generation` found: tokens (steps) compared, those of lost lineages left out, largest difference.

    Of decision runs also `frames` that the environments stepped again, and `skipped` fragments.
    """

    @property
    def identical(self) -> bool:
        regenerated = self.generation is None or (self.generation["tokens"] and not self.generation["differences"])
        return self.versions > 0 and not self.differences and bool(regenerated)

    def text(self) -> str:
        """Return what was found in a few lines."""
        verdict = "NOT reproduced" if self.differences else "every weights hash is reproduced"
        lines = [f"{self.versions} versions from {self.samples:,} trained samples: {verdict}", *self.differences[:3]]
        if found := self.generation:
            differ, lost = found["differences"], found["left_out"]
            verdict = f"{len(differ)} stretches differ" if differ else f"all within {found['worst']:.1e} nats"
            lines += [f"{found['tokens']:,} log-probabilities of {found['trajectories']:,} trajectories: {verdict}"]
            lines += differ[:3]
            if "frames" in found:
                lines.append(
                    f"{found['frames']:,} steps of the environments again, {found['skipped']:,} fragments skipped"
                )
            if lost:
                lines.append(f"{lost:,} trajectories of lineages that a resume rolled back were left out")
        return "\n".join(lines)


def replay(words: list[str], make_parts: Callable[[RunConfig], Parts]) -> int:
    """Train on a run's recorded batches again and compare: `launch.py replay RUN`; exit code 1: different."""
    parser = argparse.ArgumentParser(prog="launch.py replay", description=replay.__doc__)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>")
    parser.add_argument(
        "--verify-generation", action="store_true", help="compute every behaviour log-probability again as well"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    config = load_config([options.run / "config.yaml"], [])
    result = asyncio.run(replay_run(options.run, config, make_parts(config), options.verify_generation))
    print(json.dumps({**dataclasses.asdict(result), "identical": result.identical}) if options.json else result.text())
    return 0 if result.identical else 1


async def replay_run(run: Path, config: RunConfig, parts: Parts, verify_generation: bool = False) -> Replayed:
    """Recompute the hash of every version of the surviving lineage, then compare with the ledger.

    Raises:
      DataError: the run cannot be replayed here; says why.
    """
    refuse_retired(run, "replay")
    check_identity(run, config.model.device)
    if config.learner.ranks > 1:
        raise DataError(f"{run} was trained by {config.learner.ranks} ranks; replay adds gradients up on one")
    lineage = SurvivingLineage.load(run)
    stored = read_stream(run / "trajectories", "trajectories", TRAJECTORY)
    folder = Path(config.model.path) if config.model.path else run / "model"
    check, generation = None, None
    if verify_generation:
        known = pc.is_in(stored["id"], value_set=pa.array(_within(run, stored, lineage), pa.string()))
        check = parts.generation_check(folder, stored.filter(known))
        generation = {"trajectories": pc.sum(known).as_py(), "left_out": len(stored) - pc.sum(known).as_py()}
    hashes = [digest async for digest in _learn(run, config, parts, lineage, stored, check)]
    recorded = _recorded(run)
    differences = [
        f"version {row.version}: recorded {recorded[row.lineage, row.version][:12]}, replayed {digest[:12]}"
        for row, digest in zip(lineage.chain, hashes, strict=True)
        if recorded[row.lineage, row.version] != digest
    ]
    if check is not None:
        generation |= check.result()
    return Replayed(len(hashes), sum(map(len, lineage.batches)), tuple(differences), generation)


async def _learn(
    run: Path, config: RunConfig, parts: Parts, lineage: SurvivingLineage, stored: pa.Table, check: Any
) -> Any:
    """Yield the hash of each version of the lineage; show each version to the check of the generation."""
    rank = open_rank(config, run, parts.spec)
    batches = _batches(run, config, lineage, stored, parts.combine())
    try:
        if config.warm_start.updates:
            await rank.warm_start(parts.examples(), config.warm_start)
        for row in lineage.chain:
            if row.parent is not None:
                await rank.update(next(batches))
            if check is not None:
                await rank.apply(partial(_show, check, row.version))
            yield await rank.apply(lambda learner: learner.digest())
    finally:
        await rank.close()


def _show(check: Any, version: int, learner: PolicyLearner) -> None:
    check.at(version, learner.weights())


def _within(run: Path, stored: pa.Table, lineage: SurvivingLineage) -> list[str]:
    """Return the trajectories sampled by versions of this lineage alone, or by none that ever was.

    After a resume, a version number above the checkpoint's means other weights than before it. A payload whose
    ledger row a kill prevented belongs to none.
    """
    events = read_stream(run / "ledger", "events", EVENTS)
    generated = events.filter(pc.equal(pc.cast(events["event"], "string"), "generated"))
    made_in = dict(zip(generated["id"].to_pylist(), generated["lineage"].to_pylist(), strict=True))
    newest = lineage.chain[-1].lineage if lineage.chain else 0
    return [
        name
        for name, versions in zip(stored["id"].to_pylist(), stored["version_values"].to_pylist(), strict=True)
        if all(lineage.made_in.get(version, newest) <= made_in.get(name, -1) for version in versions)
    ]


def _batches(
    run: Path, config: RunConfig, lineage: SurvivingLineage, stored: pa.Table, combine: Combine
) -> Iterator[pa.Table]:
    """Yield what each update consumed, as the learner read it."""
    places = {name: at for at, name in enumerate(stored.column("id").to_pylist())}
    attempts, components = _attempts(run), component_names(config)
    for row, ids in zip(lineage.chain, lineage.batches, strict=True):
        if row.parent is None:
            continue
        scores = [{**attempts.get((name, None), {}), **attempts.get((name, row.parent), {})} for name in ids]
        for name, known in zip(ids, scores, strict=True):
            if name not in places or not known.keys() >= set(components):
                raise DataError(f"{run}: version {row.version} was trained on {name}, whose payload or score is gone")
        verdicts = [combine(known, row.parent) for known in scores]
        yield with_rewards(
            stored.take([places[name] for name in ids]),
            [verdict.total for verdict in verdicts],
            steps=[verdict.steps for verdict in verdicts],
            intrinsic=[valid_vector(known.get(INTRINSIC)) for known in scores],
        )


def _attempts(run: Path) -> dict[tuple[str, int | None], dict[str, Score]]:
    """Return the newest recorded scores by component, by trajectory id and the update that they were given for.

    The update is its consuming version; None for scores at arrival, which hold for every update.
    """
    found: dict[tuple[str, int | None], dict[str, Score]] = {}
    for row in read_stream(run / "ledger", "scores", SCORES).to_pylist():
        score = Score(
            status=ScoreStatus(row["status"]),
            value=row["value"],
            detail=row["detail"],
            vector=tuple(row["vector"]),
            span_values=tuple(row["span_values"]),
            spans=tuple(Span(**span) for span in row["spans"]),
        )
        found.setdefault((row["trajectory_id"], row["update_version"]), {})[row["component"]] = score
    return found


def _recorded(run: Path) -> dict[tuple[int, int], str]:
    table = read_stream(run / "ledger", "versions", VERSIONS)
    rows: Sequence[Mapping[str, Any]] = table.filter(pc.equal(table["model"], "policy")).to_pylist()
    return {(row["lineage"], row["version"]): row["weights_sha256"] for row in rows}

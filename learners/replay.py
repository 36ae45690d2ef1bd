"""`launch.py replay`: learn the recorded schedule of a run again, and compare every weights hash.

    ledger: which trajectories made which version -> payloads and scores -> the learner, from version 0

The recorded hashes are looked at only after all have been computed. What the engines did is taken from
the payloads; how timing mixed versions and batches is the recorded schedule.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from buffers.records.lineage import SurvivingLineage
from buffers.retired import refuse_retired
from buffers.schema import SCORES, TRAJECTORY, VERSIONS, with_rewards
from buffers.scores import Score, ScoreStatus
from buffers.streams import read_stream
from configs.errors import DataError
from configs.load import load_config
from configs.parts import Parts
from configs.schema import RunConfig
from learners.numeric_identity import check_identity
from learners.rank import LearnerRank

__all__ = ["Replayed", "replay", "replay_run"]

Combine = Callable[[Mapping[str, Score]], Any]


@dataclass(frozen=True)
class Replayed:
    """What came out, version by version."""

    versions: int
    samples: int
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        return self.versions > 0 and not self.differences


def replay(words: list[str], make_parts: Callable[[RunConfig], Parts]) -> int:
    """Train on a run's recorded batches again and compare: `launch.py replay RUN [--json]`; exit code 1: different."""
    parser = argparse.ArgumentParser(prog="launch.py replay", description=replay.__doc__)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    config = load_config([options.run / "config.yaml"], [])
    result = asyncio.run(replay_run(options.run, config, make_parts(config)))
    if options.json:
        print(json.dumps({**dataclasses.asdict(result), "identical": result.identical}))
    else:
        print(f"{result.versions} versions from {result.samples:,} trained samples: ", end="")
        print("every weights hash is reproduced" if result.identical else "NOT reproduced")
        print(*result.differences[:3], sep="\n", end="\n" if result.differences else "")
    return 0 if result.identical else 1


async def replay_run(run: Path, config: RunConfig, parts: Parts) -> Replayed:
    """Recompute the hash of every version of the surviving lineage, then compare with the ledger.

    Raises:
      DataError: the run cannot be replayed here; says why.
    """
    refuse_retired(run, "replay")
    check_identity(run, config.model.device)
    if config.learner.ranks > 1:
        raise DataError(f"{run} was trained by {config.learner.ranks} ranks; replay adds gradients up on one")
    lineage = SurvivingLineage.load(run)
    hashes = [digest async for digest in _learn(run, config, parts, lineage)]
    recorded = _recorded(run)
    differences = [
        f"version {row.version}: recorded {recorded[row.lineage, row.version][:12]}, replayed {digest[:12]}"
        for row, digest in zip(lineage.chain, hashes, strict=True)
        if recorded[row.lineage, row.version] != digest
    ]
    return Replayed(len(hashes), sum(map(len, lineage.batches)), tuple(differences))


async def _learn(run: Path, config: RunConfig, parts: Parts, lineage: SurvivingLineage) -> Any:
    """Yield the hash of each version of the lineage."""
    folder = Path(config.model.path) if config.model.path else run / "model"
    rank = LearnerRank(config.learner, config.model, folder, seed=config.seed, total_updates=config.updates)
    try:
        if config.warm_start.updates:
            await rank.warm_start(parts.examples(), config.warm_start)
        yield await rank.apply(lambda learner: learner.digest())
        for table in _batches(run, lineage, parts.combine()):
            await rank.update(table)
            yield await rank.apply(lambda learner: learner.digest())
    finally:
        await rank.close()


def _batches(run: Path, lineage: SurvivingLineage, combine: Combine) -> Iterator[pa.Table]:
    """Yield what each update consumed, as the learner read it."""
    stored = read_stream(run / "trajectories", "trajectories", TRAJECTORY)
    places = {name: at for at, name in enumerate(stored.column("id").to_pylist())}
    rewards = _rewards(run, combine)
    for row, ids in zip(lineage.chain, lineage.batches, strict=True):
        if row.parent is None:
            continue
        if missing := [name for name in ids if name not in places or name not in rewards]:
            raise DataError(f"{run}: version {row.version} was trained on {missing[0]}, whose payload or score is gone")
        yield with_rewards(stored.take([places[name] for name in ids]), [rewards[name] for name in ids])


def _rewards(run: Path, combine: Combine) -> dict[str, float | None]:
    """Return trajectory id -> total reward, combined from the recorded scores."""
    parts: dict[str, dict[str, Score]] = {}
    for row in read_stream(run / "ledger", "scores", SCORES).to_pylist():
        score = Score(status=ScoreStatus(row["status"]), value=row["value"], detail=row["detail"])
        parts.setdefault(row["trajectory_id"], {})[row["component"]] = score
    return {name: combine(scores).total for name, scores in parts.items()}


def _recorded(run: Path) -> dict[tuple[int, int], str]:
    table = read_stream(run / "ledger", "versions", VERSIONS)
    rows: Sequence[Mapping[str, Any]] = table.filter(pc.equal(table["model"], "policy")).to_pylist()
    return {(row["lineage"], row["version"]): row["weights_sha256"] for row in rows}

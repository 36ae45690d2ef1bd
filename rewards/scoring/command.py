"""`launch.py score`: any file of responses, or a stored run, through any reward graph.

    source -> chunks of whole groups -> reward graph, its servers in this process -> <folder>/scores-*.parquet
                                                                                  '-> <folder>/totals-*.parquet

A chunk is on disk, whole, before it counts; the same command again goes on with those that are missing, and
scores again the groups of samples for which a budget did not last.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from buffers.events import ScoreCall, score_table
from buffers.files import disk, write_atomically
from buffers.scores import Sample
from buffers.transport import HandleSet, LocalHandle
from configs.errors import ConfigError, DataError, require
from configs.load import load_config
from configs.parts import Parts
from configs.schema import RunConfig
from rewards import build, component_class
from rewards.combine import Verdict
from rewards.graph import RewardGraph
from rewards.reference import reference_folder
from rewards.scoring.source import chunks, fingerprint, read_samples

__all__ = ["score"]

CHUNK = 256
"""Samples, at least, that are stored together."""
AT_A_TIME = 4
"""Chunks under way: while the last calls of one are awaited, others keep the servers busy."""
TEXT = pa.string()
TOTALS = pa.schema(
    [("id", TEXT), ("group", TEXT), ("total", pa.float64()), ("status", TEXT), ("detail", TEXT), ("paused", pa.bool_())]
)


def score(words: list[str], make_parts: Callable[[RunConfig], Parts]) -> int:
    """Score responses: `launch.py score FILE_OR_RUN FOLDER [CONFIG.yaml ...] [rewards.KEY=VALUE ...] [--json]`."""
    parser = argparse.ArgumentParser(prog="launch.py score", description=score.__doc__)
    parser.add_argument("source", type=Path, help="runs/<name>, or a .parquet or .jsonl file")
    parser.add_argument("folder", type=Path, help="where the scores go; go on there, if they are of the same command")
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value", help="a run's own when left out")
    parser.add_argument("--version", type=int, default=0, help="update at which weights with a schedule are taken")
    parser.add_argument("--dry-run", action="store_true", help="count what is missing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(words)
    config = _config(options.source, options.words)
    needs = frozenset[str]().union(*(component_class(n, s).needs for n, s in config.rewards.components.items()))
    require("policy" not in needs, "rewards.components", sorted(needs), "not ask the policy", "score it during a run")
    samples = read_samples(options.source, needs)
    parts = dict(enumerate(chunks(samples, CHUNK)))
    if not options.dry_run:
        _claim(options.folder, config, samples, options.version)
    left = {n: _left(options.folder, n, chunk) for n, chunk in parts.items()}
    missing = {n: chunk for n, chunk in left.items() if chunk}
    began = time.monotonic()
    if not options.dry_run:
        own = load_config([options.source / "config.yaml"], []) if options.source.is_dir() else None
        reference = None if own is None else reference_folder(own, options.source).resolve()
        servers = {name: make_parts(config).reward_server(name, reference) for name in config.rewards.components}
        asyncio.run(_score(config, servers, missing, options.folder, options.version))
    print(_summary(options, samples, sum(map(len, missing.values())), time.monotonic() - began))
    return 0


def _config(source: Path, words: Sequence[str]) -> RunConfig:
    files = [Path(word) for word in words if "=" not in word]
    own = [source / "config.yaml"] if source.is_dir() and not files else []
    config = load_config([*own, *files], [word for word in words if "=" in word])
    if not config.rewards.components:
        example = "rewards.components.right.component={target: exact_match}"
        raise ConfigError(f"rewards.components is empty; give a YAML file with one, or '{example}'")
    return dataclasses.replace(config, intrinsic="none")


def _claim(folder: Path, config: RunConfig, samples: Sequence[Sample], version: int) -> None:
    """Say in the folder what it holds; refuse one that holds something else."""
    graph = dataclasses.asdict(config.rewards)
    claim = {"samples": len(samples), "fingerprint": fingerprint(samples), "version": version, "rewards": graph}
    path, text = folder / "score.json", json.dumps(claim, indent=1, sort_keys=True, default=str)
    if path.exists() and path.read_text() != text:
        raise DataError(f"{folder} holds scores of other responses or of another graph; name another folder")
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


async def _score(
    config: RunConfig, servers: Mapping[str, Any], missing: Mapping[int, list[Sample]], folder: Path, version: int
) -> None:
    pools = {name: HandleSet(f"reward.{name}") for name in servers}
    async with AsyncExitStack() as opened:
        for name, make in servers.items():
            for replica in range(config.rewards.components[name].replicas):
                member = await make()
                opened.push_async_callback(member.close)
                pools[name].attach(LocalHandle(f"{name}-{replica}", member))
        await _score_chunks(build(config, pools), missing, folder, version)


async def _score_chunks(graph: RewardGraph, missing: Mapping[int, list[Sample]], folder: Path, version: int) -> None:
    room = asyncio.Semaphore(AT_A_TIME)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("scoring", total=sum(map(len, missing.values())))

        async def one(number: int, chunk: list[Sample]) -> None:
            async with room:
                _store(folder, number, chunk, await _verdicts(graph, chunk, version))
                progress.advance(bar, len(chunk))

        async with asyncio.TaskGroup() as group:
            for number, chunk in missing.items():
                group.create_task(one(number, chunk))


async def _verdicts(graph: RewardGraph, chunk: list[Sample], version: int) -> list[Verdict]:
    verdicts = await graph.score(chunk, version)
    if not graph.batch_components:
        return verdicts
    return await graph.score_batch(chunk, [verdict.scores for verdict in verdicts], version)


def _store(folder: Path, number: int, chunk: Sequence[Sample], verdicts: Sequence[Verdict]) -> None:
    scored = [(s.id, score) for s, v in zip(chunk, verdicts, strict=True) for score in v.scores.values()]
    totals = [_total(s, v) for s, v in zip(chunk, verdicts, strict=True)]
    # Totals come last: a chunk without them is scored again.
    _replace(_file(folder, "scores", number), "trajectory_id", score_table([ScoreCall(time.time(), scored)]))
    _replace(_file(folder, "totals", number), "id", pa.Table.from_pylist(totals, schema=TOTALS))


def _total(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    told = {"total": verdict.total, "status": verdict.status.value, "detail": verdict.detail}
    paused = any(score.paused for score in verdict.scores.values())
    return {"id": sample.id, "group": sample.group, **told, "paused": paused}


def _left(folder: Path, number: int, chunk: list[Sample]) -> list[Sample]:
    """Return the samples of a chunk that are to be scored: all, or the groups in which a budget did not last."""
    if not (path := _file(folder, "totals", number)).exists():
        return chunk
    rows = pq.read_table(path, schema=TOTALS, columns=["group", "paused"]).to_pylist()
    groups = {row["group"] for row in rows if row["paused"]}
    return [sample for sample in chunk if sample.group in groups]


def _replace(path: Path, key: str, table: pa.Table) -> None:
    """Write rows; those that are there already stay, unless a new one has the same key."""
    if path.exists():
        before = pq.read_table(path, schema=table.schema)
        table = pa.concat_tables([before.filter(pc.invert(pc.is_in(before[key], table[key].combine_chunks()))), table])
    _write(path, table)


def _write(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with disk(path):
        write_atomically(path, sink.getvalue().to_pybytes())


def _file(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{kind}-{number:06d}.parquet"


def _summary(options: argparse.Namespace, samples: Sequence[Sample], scored: int, seconds: float) -> str:
    files = sorted(options.folder.glob("totals-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, schema=TOTALS).to_pylist()]
    values = [row["total"] for row in rows if row["total"] is not None]
    mean = sum(values) / len(values) if values else None
    states, missing = Counter(row["status"] for row in rows), len(samples) - len(rows)
    paused = sum(row["paused"] is True for row in rows)
    if options.json:
        now = {"scored_now": 0 if options.dry_run else scored, "seconds": round(seconds, 2)}
        found = {"folder": str(options.folder), "samples": len(samples), "missing": missing, "paused": paused}
        return json.dumps({**found, "status": dict(states), "mean": mean, **now})
    shown = ", ".join(f"{count:,} {status}" for status, count in states.items()) or "nothing yet"
    resumable = f"; {paused:,} wait for a budget: run it again to go on" if paused else ""
    average = "" if mean is None else f"; mean total {mean:.4g}"
    return f"{len(samples):,} responses in {options.folder}: {shown}{average}; {missing:,} missing{resumable}"

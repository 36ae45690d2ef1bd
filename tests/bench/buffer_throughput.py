"""Records and bytes per second through the buffer's actor, against bare Ray calls that move the same messages.

Scripted workers answer every exchange at once with finished trajectories, a scorer answers at once, and a
driver consumes batches as fast as they come: what is left is leasing, admission, transport, payload files,
ledger, batches and commits. The bare side pulls the same messages from the same workers and drops them.

    python -m tests.bench.buffer_throughput [--seconds 6]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from actors import ray_adapter
from actors.member import MemberSpec
from buffers.identity import Slot
from buffers.messages import Reply
from buffers.schema import to_table
from buffers.scores import Sample, Score, ScoreStatus
from buffers.trajectory import Kind, Span, Task, Trajectory, Unit
from configs.load import load_config
from configs.registry import Deferred
from configs.schema import RunConfig
from rewards.combine import Verdict
from rewards.versions import several_versions

PRESET = Path(__file__).parents[2] / "configs" / "smoke.yaml"
WORKERS = 2
GROUP = 8
RECORDS = {8: 12, 64: 12, 512: 12}
"""Records per message -> tokens of each, for records/s."""
PAYLOADS = {64: 4000, 512: 4000}
"""The same for bytes/s: 36 kB per record."""
DEADLINE_S = 120.0
HERE = "tests.bench.buffer_throughput"
"""Not `__main__`, whose classes other processes cannot import."""


class Tasks:
    """An endless task stream."""

    name, fingerprint, tasks_per_epoch = "bench", "bench", 1 << 40

    def __init__(self) -> None:
        self.cursor = 0

    def seek(self, ordinal: int) -> None:
        self.cursor = ordinal

    def next_group(self) -> tuple[int, int, Task]:
        self.cursor += 1
        return 0, self.cursor - 1, Task(source="bench", index=self.cursor - 1, prompt="1+1=", answer="2")


class Scorer:
    """Scores without calling anybody."""

    scopes = frozenset({"sample"})
    needs: frozenset[str] = frozenset()
    batch_needs: frozenset[str] = frozenset()
    batch_components = ()
    scheduled = False

    def mixes_versions(self, groups: Sequence[Sequence[Mapping[str, Score]]]) -> bool:
        return any(several_versions([scores["correct"] for scores in group]) for group in groups)

    async def score(self, samples: Sequence[Sample], version: int) -> list[Verdict]:
        score = Score(component="correct", status=ScoreStatus.OK, value=1.0)
        return [Verdict(scores={"correct": score}, total=1.0, detail="") for _ in samples]


def make_scorer(_: Any) -> Scorer:
    return Scorer()


class Worker:
    """Answers every exchange with a message of finished trajectories."""

    def __init__(self, message: int, tokens: int) -> None:
        self._message = message
        self._rows = to_table([trajectory(i, tokens) for i in range(message)])

    def exchange(self, sequence: int, units: Sequence[Unit], wait_s: float) -> Reply:
        table = self._stamped(units) if units else None
        return Reply(table=table, failures=(), capacity=self._message, in_flight=0)

    def message(self) -> pa.Table:
        """Return what the bare side moves."""
        return self._rows

    def _stamped(self, units: Sequence[Unit]) -> pa.Table:
        columns = {
            "id": [f"bench:0:{u.slot.task}:{u.slot.sample}.{u.attempt}.0" for u in units],
            "group": [f"bench:0:{u.slot.task}" for u in units],
            "task": [u.slot.task for u in units],
            "sample": [u.slot.sample for u in units],
            "attempt": [u.attempt for u in units],
            "oldest_version": [u.min_version for u in units],
            "version_values": [[u.min_version] for u in units],
        }
        table = self._rows if len(units) == self._message else self._rows.take(list(range(len(units))))
        for name, values in columns.items():
            field = table.schema.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
        return table


class Sink:
    """The bare side: pulls messages and counts their bytes."""

    async def pull(self, workers: Sequence[Any], seconds: float) -> tuple[int, int, float]:
        """Return (records, bytes, seconds)."""
        records = size = 0
        began = time.perf_counter()

        async def pump(worker: Any) -> None:
            nonlocal records, size
            while time.perf_counter() - began < seconds:
                table = await worker.call("message", deadline_s=DEADLINE_S, awaiting="a message")
                records, size = records + table.num_rows, size + table.nbytes

        await asyncio.gather(*map(pump, workers))
        return records, size, time.perf_counter() - began


def trajectory(sample: int, tokens: int) -> Trajectory:
    half = tokens // 2
    kinds = np.repeat(np.array([Kind.PROMPT, Kind.SAMPLED], np.uint8), [half, tokens - half])
    return Trajectory(
        slot=Slot("bench", 0, 0, sample), attempt=0, tokens=np.arange(tokens, dtype=np.int32), kinds=kinds,
        logprobs=np.full(tokens, -1.0, np.float32), versions=[(0, tokens - half)], prompt="1+1=", completion="2",
        answer="2", spans=[Span("turn", half, tokens)],
    )  # fmt: skip


async def measure(message: int, tokens: int, seconds: float) -> dict[str, float]:
    """Measure one size of message."""
    with tempfile.TemporaryDirectory() as folder:
        groups = max(64, 4 * message // GROUP)
        words = [f"runs_folder={folder}", f"batch.prompts_per_update={groups}", f"batch.num_generations={GROUP}"]
        config = load_config([PRESET], [*words, "max_staleness=4", f"buffer.max_bytes={1 << 34}"])
        specs = [MemberSpec(pool="worker", factory=Deferred(f"{HERE}:Worker", (message, tokens)))] * WORKERS
        workers = [ray_adapter.spawn(spec, f"worker-{i}") for i, spec in enumerate(specs)]
        arguments = (config, Path(folder), 1, 0, Deferred(f"{HERE}:Tasks", ()), Deferred(f"{HERE}:make_scorer", ()))
        buffer = ray_adapter.spawn(MemberSpec(pool="buffer", factory=Deferred("buffers.host:build", arguments)), "b")
        sink = ray_adapter.spawn(MemberSpec(pool="sink", factory=Deferred(f"{HERE}:Sink", ())), "sink")
        members = [*workers, buffer, sink]
        await asyncio.gather(*(member.build(DEADLINE_S) for member in members))
        bare = await sink.call("pull", workers, seconds, deadline_s=DEADLINE_S, awaiting="messages")
        try:
            records, size, took = await consume(buffer, workers, config, seconds)
        finally:
            for member in members:
                member.kill()
    return {
        "records_per_s": round(records / took),
        "mb_per_s": round(size / took / 1e6, 1),
        "bare_records_per_s": round(bare[0] / bare[2]),
        "bare_mb_per_s": round(bare[1] / bare[2] / 1e6, 1),
        "ratio_of_bytes": round(size / took / (bare[1] / bare[2]), 3),
    }


async def consume(buffer: Any, workers: Sequence[Any], config: RunConfig, seconds: float) -> tuple[int, int, float]:
    """Take batches for some time after the first one; return (records, bytes, seconds)."""

    async def call(method: str, *args: Any) -> Any:
        return await buffer.call(method, *args, deadline_s=DEADLINE_S, awaiting=method)

    await call("start")
    for worker in workers:
        await call("attach", "rollout", worker)
    version = records = size = 0
    began = 0.0
    while not began or time.perf_counter() - began < seconds:
        await call("next_batch", version, DEADLINE_S)
        table = await call("batch_table", version)
        await call("commit", version)
        version += 1
        if began:
            records, size = records + table.num_rows, size + table.nbytes
        elif version == 2:
            began = time.perf_counter()
    took = time.perf_counter() - began
    await call("drain", "end of the measurement")
    return records, size, took


async def measure_all(seconds: float) -> dict[str, Any]:
    records = {f"{rows} per message": await measure(rows, tokens, seconds) for rows, tokens in RECORDS.items()}
    payloads = {f"{rows} per message": await measure(rows, tokens, seconds) for rows, tokens in PAYLOADS.items()}
    return {"records": records, "payloads": payloads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    seconds = parser.parse_args().seconds
    ray_adapter.connect(load_config([PRESET], []).cluster, "bench")
    try:
        print(json.dumps(asyncio.run(measure_all(seconds))))
    finally:
        ray_adapter.leave()


if __name__ == "__main__":
    main()

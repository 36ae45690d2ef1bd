"""Metrics of a run: Parquet in long format, TensorBoard event files, and W&B where asked for.

`metrics/` holds files `<first>-<last>.parquet`: the log calls that each one contains. A call writes
its own small file (temporary name, then rename), so a killed process loses nothing that it logged.
Every 64 files of one size are merged into one, and `close` merges all. A merged file appears before
its parts vanish; a reader ignores every file whose range lies inside another's.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

from buffers.files import disk
from configs.errors import ConfigError, DataError

__all__ = ["SCHEMA", "MetricsWriter", "Sink", "read_metrics"]

FAN_IN = 64  # files of one size that are merged into one; bounds the files that a reader opens
PENDING_S = 0.5  # between files: updates can be faster than files are made

SCHEMA = pa.schema(
    [
        ("update", pa.int64()),
        ("time", pa.float64()),  # seconds since the Unix epoch
        ("name", pa.string()),
        ("value", pa.float64()),
        ("finite", pa.bool_()),  # False flags NaN and infinities, which are stored as they are
    ]
)


class _Part(NamedTuple):
    """A metrics file; `first` to `last` are the log calls in it, counted over the whole run."""

    first: int
    last: int
    path: Path

    @property
    def calls(self) -> int:
        return self.last - self.first + 1


def _parts(folder: Path) -> list[_Part]:
    """Return the files that no other file contains, in the order of logging."""
    found = []
    for path in folder.glob("*-*.parquet"):
        first, _, last = path.stem.partition("-")
        found.append(_Part(int(first), int(last), path))
    outermost: list[_Part] = []
    for part in sorted(found, key=lambda p: (p.first, -p.last)):
        if not outermost or part.last > outermost[-1].last:
            outermost.append(part)
    return outermost


class Sink(Protocol):
    """Where else metrics go."""

    def log(self, update: int, metrics: Mapping[str, float], time: float) -> None: ...

    def close(self) -> None: ...


class _ParquetSink:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = _parts(folder)
        self._next = self._files[-1].last + 1 if self._files else 0
        self._pending: list[pa.Table] = []
        self._written = -math.inf

    def log(self, update: int, metrics: Mapping[str, float], time: float) -> None:
        values = [float(value) for value in metrics.values()]
        rows = [[update] * len(values), [time] * len(values), list(metrics), values, [math.isfinite(v) for v in values]]
        self._pending.append(pa.table(rows, schema=SCHEMA))
        if not self._written <= time < self._written + PENDING_S:
            self._flush(time)

    def _flush(self, time: float) -> None:
        """Write what is pending as one file; merge files of equal age."""
        self._files.append(self._write(self._next, self._next, pa.concat_tables(self._pending)))
        self._pending, self._written = [], time
        self._next += 1
        calls = 1
        while len(equal := [part for part in self._files if part.calls == calls]) >= FAN_IN:
            self._merge(equal)
            calls *= FAN_IN

    def close(self) -> None:
        if self._pending:
            self._flush(self._written)
        if len(self._files) > 1:
            self._merge(self._files)

    def _write(self, first: int, last: int, table: pa.Table) -> _Part:
        path = self._folder / f"{first:09d}-{last:09d}.parquet"
        temporary = path.with_suffix(".tmp")
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
        return _Part(first, last, path)

    def _merge(self, parts: Sequence[_Part]) -> None:
        merged = self._write(parts[0].first, parts[-1].last, pa.concat_tables([pq.read_table(p.path) for p in parts]))
        for part in parts:
            part.path.unlink()
        self._files = sorted([*(part for part in self._files if part not in parts), merged])


class _TensorBoardSink:
    # tensorboard's own writer with plain scalar summaries: importing torch's takes seconds.
    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder), flush_secs=5)

    def log(self, update: int, metrics: Mapping[str, float], time: float) -> None:
        summary = Summary(value=[Summary.Value(tag=k, simple_value=float(v)) for k, v in metrics.items()])
        self._writer.add_event(Event(wall_time=time, step=update, summary=summary))

    def close(self) -> None:
        self._writer.close()


class _WandbSink:
    def __init__(self, folder: Path, project: str, run_name: str, config: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                f"logging.wandb_project is {project!r}, but the wandb package is not installed; "
                "run `pip install wandb`, or set logging.wandb_project=null"
            )
        import wandb

        self._run = wandb.init(project=project, name=run_name, config=dict(config), dir=str(folder), resume="allow")

    def log(self, update: int, metrics: Mapping[str, float], time: float) -> None:
        self._run.log({**metrics, "time": time}, step=update)

    def close(self) -> None:
        self._run.finish()


class MetricsWriter:
    """Writes the metrics of one run; a second writer in the same folder (a resume) goes on."""

    def __init__(
        self,
        folder: Path,
        tensorboard: bool,
        wandb_project: str | None,
        run_name: str,
        config: Mapping[str, Any],
        others: Sequence[Sink] = (),
    ) -> None:
        """Open the sinks.

        Args:
          folder: run folder; files go to its `metrics/`.
          tensorboard: also write event files to `metrics/tensorboard/`.
          wandb_project: also log to this Weights & Biases project; None does not.
          run_name: name shown by W&B.
          config: resolved configuration, stored by W&B.
          others: where metrics go, too.

        Raises:
          ConfigError: W&B was asked for and is not installed.
        """
        metrics = self._folder = folder / "metrics"
        self._sinks: list[Sink] = []
        if wandb_project is not None:
            self._sinks.append(_WandbSink(folder, wandb_project, run_name, config))
        self._sinks.append(_ParquetSink(metrics))
        if tensorboard:
            self._sinks.append(_TensorBoardSink(metrics / "tensorboard"))
        self._sinks += others

    def log(self, update: int, metrics: Mapping[str, float], time: float) -> None:
        """Store the metrics of an update; all but those of the last half second survive the death of this process.

        Args:
          update: learner update that they belong to.
          metrics: name -> value; NaN and infinities are stored and flagged.
          time: seconds since the Unix epoch.
        """
        if not metrics:
            return
        with disk(self._folder):
            for sink in self._sinks:
                sink.log(update, metrics, time)

    def close(self) -> None:
        """Merge the files and flush the event file."""
        with disk(self._folder):
            for sink in self._sinks:
                sink.close()


def read_metrics(folder: Path) -> pa.Table:
    """Return the metrics of a run folder, also while it runs, sorted by update.

    Of an update and name that were logged twice (a resumed run repeats updates), the later counts.

    Returns:
      Table with the columns of `SCHEMA`.

    Raises:
      DataError: the folder has no `metrics/`.
    """
    metrics = folder / "metrics"
    if not metrics.is_dir():
        raise DataError(f"{metrics} does not exist; name a run folder that has logged an update")
    table = _read_parts(metrics)
    numbered = table.append_column("order", pa.array(range(len(table)), pa.int64()))
    latest = numbered.group_by(["update", "name"]).aggregate([("order", "max")])
    return table.take(latest["order_max"]).sort_by([("update", "ascending"), ("name", "ascending")])


def _read_parts(metrics: Path) -> pa.Table:
    while True:
        try:
            return pa.concat_tables([SCHEMA.empty_table(), *(pq.read_table(part.path) for part in _parts(metrics))])
        except FileNotFoundError:
            continue  # the writer merged meanwhile; the merged file is there already

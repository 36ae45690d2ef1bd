"""SQL over a run folder, running or finished.

Views: trajectories, events, scores, pairs, versions (columns: `buffers.tables`), metrics
(`buffers.records.metrics`) and rewards: of each scored trajectory its `id`, the `total` that it was
trained with last (before that: at arrival) and `parts`, the raw value of each component. Finished Parquet
files are scanned where they lie; live segments are read into memory. The connection sees nothing but these
views and cannot write a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from buffers.epochs import stream_files
from buffers.records.metrics import read_metrics
from buffers.streams import LISTINGS, read_files
from buffers.tables import SCHEMAS, upgrade
from configs.errors import Corruption, RunError

__all__ = ["VIEWS", "connect", "query"]

VIEWS = (*SCHEMAS, "metrics", "rewards")
REWARDS = """
CREATE VIEW rewards AS
WITH newest AS (
  SELECT trajectory_id AS id, component, last(value ORDER BY coalesce(update_version, -1), time) AS value
  FROM scores GROUP BY ALL
), parts AS (
  SELECT id, map(list(component ORDER BY component), list(value ORDER BY component)) AS parts FROM newest GROUP BY id
), totals AS (
  SELECT id, last(reward ORDER BY seq) AS total FROM events WHERE event IN ('scored', 'trained') GROUP BY id
)
SELECT id, total, parts FROM parts LEFT JOIN totals USING (id)
"""
FOLDERS = {"trajectories": "trajectories", "labels": "intrinsic"}
"""Of streams that are not in the ledger."""


def query(run_folder: Path, sql: str) -> pa.Table:
    """Return the rows of one SQL statement in DuckDB's dialect.

    Raises:
      RunError: the statement fails; the message lists the views.
      Corruption, DataError: as `connect`.
    """
    connection = connect(run_folder)
    try:
        relation = connection.sql(sql)
        if relation is None:
            raise RunError(f"{sql!r} returns no rows; write a SELECT")
        return relation.to_arrow_table()
    except duckdb.Error as error:
        raise RunError(f"{str(error).splitlines()[0]}; the views are {', '.join(VIEWS)}") from error
    finally:
        connection.close()


def connect(run_folder: Path) -> Any:
    """Return a DuckDB connection that has the views of a run folder.

    Raises:
      Corruption: a live segment fails its checksum.
      DataError: this is no run folder.
    """
    connection = duckdb.connect(config={"enable_external_access": False})
    for stream, schema in SCHEMAS.items():
        connection.register(stream, _dataset(run_folder / FOLDERS.get(stream, "ledger"), stream, schema))
    connection.register("metrics", read_metrics(run_folder))
    connection.execute(REWARDS)
    return connection


def _dataset(folder: Path, stream: str, schema: pa.Schema) -> ds.Dataset:
    for _ in range(LISTINGS):
        try:
            files = stream_files(folder, stream)
            tables = [upgrade(t, schema) for t in read_files([f for f in files if f.is_segment])]
            live = pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
            return _union([f.path for f in files if not f.is_segment], live)
        except FileNotFoundError:
            continue  # merged or retired meanwhile
    raise Corruption(f"{folder}: the files of stream {stream!r} kept vanishing; run one writer per folder")


def _union(paths: list[Path], live: pa.Table) -> ds.Dataset:
    if not paths:
        return ds.dataset(live)
    schema = pa.unify_schemas([live.schema, *(pq.read_schema(p) for p in paths)])
    live = pa.concat_tables([live, schema.empty_table()], promote_options="default")
    checked = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    return ds.dataset([ds.dataset(live), ds.dataset(paths, schema=schema, format=checked)], schema=schema)

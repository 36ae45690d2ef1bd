"""SQL over a run folder reads Parquet and live segments alike, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from recorded_run import Epoch, group, record_run, trajectory

from buffers.identity import trajectory_id
from buffers.ledger import Event, EventKind
from buffers.records.query import VIEWS, query
from buffers.run_folder import RunFolder
from buffers.schema import to_table
from buffers.scores import Score, ScoreStatus
from configs.errors import DataError, RunError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("query") / "run")


def test_every_view_can_be_read(run: Path) -> None:
    rows = {view: query(run, f"SELECT count(*) AS n FROM {view}")["n"][0].as_py() for view in VIEWS}
    counts = {
        "versions": 5,
        "events": 64,
        "scores": 10,
        "pairs": 0,
        "labels": 0,
        "trajectories": 10,
        "metrics": 0,
        "rewards": 10,
    }
    assert rows == counts


def test_views_join(run: Path) -> None:
    sql = """SELECT version, count(DISTINCT t.id) AS n, sum(len(t.tokens)) AS tokens FROM events e
             JOIN trajectories t USING (id) WHERE event = 'trained' AND e.lineage = 1
             GROUP BY version ORDER BY version"""
    assert query(run, sql).to_pylist() == [
        {"version": 1, "n": 2, "tokens": 6},
        {"version": 2, "n": 4, "tokens": 12},
    ]


def test_rewards_show_the_raw_parts_of_a_trajectory_beside_the_total_it_was_trained_with(tmp_path: Path) -> None:
    path = record_run(tmp_path / "run")
    with RunFolder.open(path) as folder:
        epoch = Epoch(folder, lineage=2)
        (first, second) = group(9)
        ids = [trajectory_id(*first), trajectory_id(*second)]
        late = Score.invalid(ScoreStatus.TIMEOUT, "late", component="judge")
        for name in ids:
            epoch.ledger.record_scores(
                [(name, Score(value=1.0, component="right")), (name, Score(value=0.5, component="judge"))]
            )
        epoch.ledger.record([Event(EventKind.SCORED, *first, reward=1.5), Event(EventKind.SCORED, *second, reward=1.5)])
        epoch.ledger.record_scores([(ids[0], Score(value=0.25, component="judge")), (ids[1], late)], 3)
        epoch.ledger.record([Event(EventKind.TRAINED, *first, version=3, reward=1.25)])
        epoch.ledger.flush()
        shown = "id, total, parts['right'] AS r, parts['judge'] AS j"
        sql = f"SELECT {shown} FROM rewards WHERE id IN {tuple(ids)} ORDER BY id"
        assert query(path, sql).to_pylist() == [
            {"id": ids[0], "total": 1.25, "r": 1.0, "j": 0.25},
            {"id": ids[1], "total": 1.5, "r": 1.0, "j": None},
        ]


def test_a_running_run_shows_its_live_rows_and_extension_columns(tmp_path: Path) -> None:
    path = record_run(tmp_path / "run")
    with RunFolder.open(path) as folder:
        epoch = Epoch(folder, lineage=2)
        row = to_table([trajectory(*group(9)[0])]).append_column("x_novelty", pa.array([0.5]))
        epoch.payloads.append(row).result(10)
        epoch.record(EventKind.ADMITTED, group(9))
        epoch.ledger.flush()
        assert list(path.glob("*/*.seg"))
        assert query(path, "SELECT count(*) AS n FROM events")["n"].to_pylist() == [66]
        sql = "SELECT x_novelty, count(*) AS n FROM trajectories GROUP BY ALL ORDER BY n"
        assert query(path, sql).to_pylist() == [{"x_novelty": 0.5, "n": 1}, {"x_novelty": None, "n": 10}]


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM event", "SELECT nothing FROM events", ""])
def test_a_failing_statement_names_the_views(run: Path, sql: str) -> None:
    with pytest.raises(
        RunError, match=r"views are versions, events, scores, pairs, labels, trajectories, metrics|write a SELECT"
    ):
        query(run, sql)


@pytest.mark.parametrize(
    "statement", ["COPY (SELECT 1) TO '{}'", "ATTACH '{}'", "SELECT * FROM read_text('/etc/hostname')"]
)
def test_a_statement_cannot_touch_files(run: Path, tmp_path: Path, statement: str) -> None:
    with pytest.raises(RunError, match="disabled by configuration"):
        query(run, statement.format(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        query(tmp_path / "nowhere", "SELECT 1")

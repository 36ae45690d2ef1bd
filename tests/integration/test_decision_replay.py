"""A run of agents with an intrinsic reward is reproduced from its record, and every change of it is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import launch
from buffers.records.query import query
from buffers.scores import INTRINSIC

PRESET = str(Path(__file__).with_name("decision_preset.yaml"))

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    assert launch.main(["run", PRESET, "name=run", f"runs_folder={folder}", "cluster.address=local"]) == 0
    return folder / "run"


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def replay(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = launch.main(["replay", str(run), "--json", *flags])
    said = capsys.readouterr()
    return code, json.loads(said.out or "{}"), said.err


def rewrite(run: Path, folder: str, stream: str, change: Callable[[pa.Table], pa.Table]) -> None:
    (path,) = (run / folder).glob(f"*{stream}*.parquet")
    pq.write_table(change(pq.read_table(path)), path)


def changed(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def rewarded(table: pa.Table) -> int:
    """Return a row of the scores that gave a step of a batch something."""
    rows = zip(table["component"].to_pylist(), table["vector"].to_pylist(), strict=True)
    return next(i for i, (name, vector) in enumerate(rows) if name == INTRINSIC and any(vector))


def trained_row(run: Path, table: pa.Table) -> int:
    """Return a row of the payloads whose fragment was trained in the first update."""
    wanted = query(run, "SELECT id FROM events WHERE event = 'trained' AND version = 0 LIMIT 1").to_pylist()[0]["id"]
    index: int = table["id"].to_pylist().index(wanted)
    return index


def test_hashes_log_probabilities_and_environments_are_reproduced(run: Path, capsys: pytest.CaptureFixture[str]):
    code, result, _ = replay(run, capsys, "--verify-generation")
    assert (code, result["versions"], result["samples"], result["differences"]) == (0, 9, 32, [])
    found = result["generation"]
    assert found["tokens"] >= 32 * 16 and found["frames"] >= 32 * 16 and found["differences"] == []


def test_every_update_has_its_own_scores_and_no_other_attempt_counts(run: Path, capsys: pytest.CaptureFixture[str]):
    rows = query(run, "SELECT DISTINCT update_version FROM scores WHERE component = 'intrinsic' ORDER BY 1")
    assert rows["update_version"].to_pylist() == list(range(8))

    def older_attempt_first(table: pa.Table) -> pa.Table:
        """An attempt at another update, and one at the same update that a newer one replaced."""
        row = table.slice(rewarded(table), 1)
        wrong = changed(row, "vector", 0, [9.0] * 16)
        elsewhere = changed(wrong, "update_version", 0, 77)
        return pa.concat_tables([wrong, table, elsewhere])

    rewrite(run, "ledger", "scores", older_attempt_first)
    code, result, _ = replay(run, capsys)
    assert (code, result["differences"]) == (0, [])


def test_another_intrinsic_reward_makes_other_weights(run: Path, capsys: pytest.CaptureFixture[str]):
    rewrite(run, "ledger", "scores", lambda t: changed(t, "vector", rewarded(t), [9.0] * 16))
    code, result, _ = replay(run, capsys)
    assert code == 1 and result["differences"]


def test_a_lost_intrinsic_score_is_named_and_is_not_taken_for_an_invalid_one(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    def without_one(table: pa.Table) -> pa.Table:
        return table.filter(pc.not_equal(pa.array(np.arange(len(table))), rewarded(table)))

    rewrite(run, "ledger", "scores", without_one)
    code, _, said = replay(run, capsys)
    assert code == 2 and "whose payload or score is gone" in said


def test_a_stamp_of_another_version_is_noticed(run: Path, capsys: pytest.CaptureFixture[str]):
    def shifted(table: pa.Table) -> pa.Table:
        versions = table["version_values"].to_pylist()
        row = next(i for i, v in enumerate(versions) if v == [max(max(w) for w in versions)])
        return changed(table, "version_values", row, [0])

    rewrite(run, "trajectories", "trajectories", shifted)
    code, result, _ = replay(run, capsys, "--verify-generation")
    assert code == 1 and any("log-probabilities differ" in line for line in result["generation"]["differences"])


@pytest.mark.parametrize(
    ("column", "what"), [("rewards", "rewards of step 0"), ("observations", "observation 'image'")]
)
def test_what_the_environment_did_not_do_is_noticed(
    column: str, what: str, run: Path, capsys: pytest.CaptureFixture[str]
):
    def edited(table: pa.Table) -> pa.Table:
        row = trained_row(run, table)
        value = table[column].to_pylist()[row]
        other = [value[0] + 0.5, *value[1:]] if column == "rewards" else bytes([value[0] ^ 1]) + value[1:]
        return changed(table, column, row, other)

    rewrite(run, "trajectories", "trajectories", edited)
    code, result, _ = replay(run, capsys, "--verify-generation")
    assert code == 1 and any(what in line for line in result["generation"]["differences"])

"""Replay reproduces an async run's weights, and notices whatever was changed in its record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import launch
from buffers.records.query import query

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    reward = "rewards.components.correct.component={target: length_penalty, target_tokens: 2}"
    words = [SMOKE, "name=run", f"runs_folder={folder}", "cluster.address=local", reward]
    # Long completions that begin at random times: whenever new weights come, some are in flight.
    words += ["rollout.max_delay_s=0.2", "rollout.max_completion_length=32", "rollout.context_length=48"]
    quick = [
        "warm_start.updates=1",
        "warm_start.learning_rate=1e-4",
        "updates=5",
        "eval.tasks=0",
        "logging.report=false",
        "logging.view=quiet",
    ]
    assert launch.main(["run", *words, *quick]) == 0
    return folder / "run"


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def replay(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = launch.main(["replay", str(run), "--json", *flags])
    return code, json.loads(capsys.readouterr().out or "{}")


def rewrite(run: Path, folder: str, stream: str, change: Callable[[pa.Table], pa.Table]) -> None:
    (path,) = (run / folder).glob(f"*{stream}*.parquet")
    pq.write_table(change(pq.read_table(path)), path)


def test_every_published_hash_of_an_async_run_is_reproduced(run: Path, capsys: pytest.CaptureFixture[str]):
    staleness = json.loads((run / "summary.json").read_text())["staleness"]
    assert staleness["max"] > 0, "nothing was asynchronous: the test proved nothing"
    code, result = replay(run, capsys)
    assert (code, result["versions"], result["samples"], result["differences"]) == (0, 6, 160, [])


def test_one_flipped_bit_of_one_payload_changes_the_result(run: Path, capsys: pytest.CaptureFixture[str]):
    # A sample that moved the weights: the best of a group whose rewards differ.
    moved = query(
        run,
        """
        SELECT arg_max(e.id, s.value) AS id FROM events e JOIN scores s ON s.trajectory_id = e.id
        WHERE e.event = 'trained' AND e.version = 0 GROUP BY e.task HAVING min(s.value) < max(s.value) LIMIT 1
    """,
    ).to_pylist()[0]["id"]

    def flip(table: pa.Table) -> pa.Table:
        column = table.column("logprobs").combine_chunks()
        values, row = np.array(column.values), table.column("id").to_pylist().index(moved)
        first = column.offsets[row].as_py()
        sampled = first + int(np.flatnonzero(values[first:])[0])
        values[sampled : sampled + 1].view(np.uint32)[:] ^= 1 << 20
        changed = pa.ListArray.from_arrays(column.offsets, pa.array(values))
        return table.set_column(table.schema.get_field_index("logprobs"), table.schema.field("logprobs"), changed)

    rewrite(run, "trajectories", "trajectories", flip)
    code, result = replay(run, capsys)
    assert code == 1 and result["differences"][0].startswith("version 1")


def test_another_score_changes_the_result_from_its_version_on(run: Path, capsys: pytest.CaptureFixture[str]):
    def raise_first(table: pa.Table) -> pa.Table:
        values = table.column("value").to_pylist()
        values[0] += 5.0
        return table.set_column(table.schema.get_field_index("value"), table.schema.field("value"), pa.array(values))

    rewrite(run, "ledger", "scores", raise_first)
    code, result = replay(run, capsys)
    assert code == 1 and len(result["differences"]) >= 1


def test_a_recorded_hash_that_is_wrong_is_named(run: Path, capsys: pytest.CaptureFixture[str]):
    def forge(table: pa.Table) -> pa.Table:
        values = table.column("weights_sha256").to_pylist()
        values[3] = "f" * 64
        field = table.schema.field("weights_sha256")
        return table.set_column(table.schema.get_field_index("weights_sha256"), field, pa.array(values))

    rewrite(run, "ledger", "versions", forge)
    code, result = replay(run, capsys)
    assert code == 1 and [d.split(":")[0] for d in result["differences"]] == ["version 3"]


def test_another_kind_of_machine_is_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]):
    path = run / "numeric_identity.json"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "1.'))
    assert launch.main(["replay", str(run)]) == 2
    assert "was computed with torch '1." in capsys.readouterr().err


def test_every_stored_logprob_is_computed_again(run: Path, capsys: pytest.CaptureFixture[str]):
    stored = query(run, "SELECT id, num_sampled, len(version_values) AS versions FROM trajectories").to_pylist()
    assert max(row["versions"] for row in stored) > 1, "no sample spans versions: the cache was never carried over"
    code, result = replay(run, capsys, "--verify-generation")
    found = result["generation"]
    assert (code, found["differences"], found["left_out"]) == (0, [], 0)
    assert found["tokens"] == sum(row["num_sampled"] for row in stored) and found["worst"] <= 1e-5


def shifted(versions: list[int], counts: list[int], by_version: int) -> tuple[list[int], list[int]]:
    """Return stamps that are one version, or one token, late."""
    if by_version:
        return [version + by_version for version in versions], counts
    return versions, [counts[0] + 1, *counts[1:-1], counts[-1] - 1]


@pytest.mark.parametrize("by_version", [0, 1, -1], ids=["a token late", "a version late", "a version early"])
def test_stamps_that_are_off_by_one_are_found(run: Path, capsys: pytest.CaptureFixture[str], by_version: int):
    changed = 0

    def shift(table: pa.Table) -> pa.Table:
        nonlocal changed
        names = ("version_values", "version_counts")
        columns = [table.column(name).to_pylist() for name in names]
        for row, (versions, counts) in enumerate(zip(*columns, strict=True)):
            if not changed and len(counts) > 1 and counts[-1] > 1 and versions[0] > 0:
                columns[0][row], columns[1][row] = shifted(versions, counts, by_version)
                changed += 1
        for name, column in zip(names, columns, strict=True):
            field = table.schema.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, pa.array(column, field.type))
        return table

    rewrite(run, "trajectories", "trajectories", shift)
    assert changed == 1
    code, result = replay(run, capsys, "--verify-generation")
    assert code == 1 and result["differences"] == []
    assert "log-probabilities differ by" in result["generation"]["differences"][0]


def test_what_another_engine_generated_is_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("engine: torch", "engine: vllm"))
    assert launch.main(["replay", str(run), "--verify-generation"]) == 2
    assert "engine vllm with float32 weights generated this run" in capsys.readouterr().err

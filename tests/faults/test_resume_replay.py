"""One run with all that can disturb a schedule: replay learns it again, bit for bit, and notices what was altered.

Staleness up to 4, samples dropped as too old, a worker that dies, SIGKILL of everything, a resume.
"""

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
from numpy.typing import NDArray

import launch
from buffers.identity import Slot
from buffers.records.lineage import SurvivingLineage
from tests.faults.kill_at import Cut, lose_the_worker, with_units
from tests.faults.killed_runs import KILLED, Run

pytestmark = [pytest.mark.integration, pytest.mark.fault]

COMPONENT = "{target: 'tests.faults.late_reward:LateLength', overtaken_by: 176, target_tokens: 2}"
WORDS = (
    "max_staleness=4", "buffer.staleness_policy=drop", "rollout.workers=2", "rollout.message_samples=8",
    "rollout.max_delay_s=0.05", f"rewards.components.correct.component={COMPONENT}", "cluster.heartbeat_s=0.2",
    "rewards.components.correct.deadline_s=60", "buffer.segment_bytes=16000000", "learner.num_iterations=2",
    "checkpoint.every=4",
)  # fmt: skip


SAMPLED_BY_THE_LOST = """
SELECT count(*) AS n FROM trajectories t JOIN events e ON e.id = t.id WHERE e.event = 'generated' AND e.lineage = 0
AND list_max(t.version_values) > (SELECT min(version) FROM versions WHERE lineage = 1)
"""
ATTEMPTS = 5


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which versions that the resume rolls back had sampled something; when its kill comes is chance."""
    for _ in range(ATTEMPTS):
        run = disturbed_once(tmp_path_factory)
        if run.sql(SAMPLED_BY_THE_LOST)[0]["n"]:
            return run
    raise AssertionError(f"{ATTEMPTS} runs, and no version that was rolled back had sampled anything")


def disturbed_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("disturbed"), WORDS)
    exchange = "actors.worker:RolloutWorker.exchange"
    lost = Cut(target=exchange, call=6, when=with_units, half=lose_the_worker, kills=False)
    killed = Cut(target="buffers.host:BufferHost.commit", call=15)  # the newest checkpoint is of version 12
    assert run.play("updates=26", cut=killed, fault=lost) == KILLED, run.log
    assert run.resume("updates=26") == 0, run.log
    return run


def replay(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = launch.main(["replay", str(path), "--verify-generation", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_run_with_drops_a_dead_worker_and_a_resume_is_replayed(disturbed: Run, capsys: pytest.CaptureFixture[str]):
    disturbed.check_books()
    counts = disturbed.sql("SELECT reason, count(*) AS n FROM events WHERE event = 'dropped' GROUP BY 1")
    happened = {row["reason"]: row["n"] for row in counts}
    assert happened.keys() >= {"stale", "worker_lost", "restart"}, f"{happened}: the test proved nothing"
    code, result = replay(disturbed.path, capsys)
    assert (code, result["versions"], result["differences"]) == (0, 27, [])
    found = result["generation"]
    assert found["tokens"] > 0 and found["differences"] == [] and found["worst"] <= 1e-5
    assert found["left_out"] > 0, "nothing was sampled by versions that the resume rolled back"


def altered(run: Run, folder: Path, stream: str, column: str, change: Callable[[NDArray[Any]], None]) -> Path:
    """Return a copy of the run in which one value of a trajectory that moved the weights was changed."""
    path = Path(shutil.copytree(run.path, folder / "run"))
    (file,) = path.glob(f"*/{stream}-*.parquet")
    table = pq.read_table(file)
    names = table.column("id" if "id" in table.column_names else "trajectory_id").to_pylist()
    row, array = names.index(one_that_moved_the_weights(run)), table.column(column).combine_chunks()
    in_rows = pa.types.is_list(array.type)
    values = np.array(array.values if in_rows else array)
    change(values[array.offsets[row].as_py() : array.offsets[row + 1].as_py()] if in_rows else values[row : row + 1])
    new = pa.ListArray.from_arrays(array.offsets, pa.array(values)) if in_rows else pa.array(values)
    pq.write_table(table.set_column(table.schema.get_field_index(column), table.schema.field(column), new), file)
    return path


def one_that_moved_the_weights(run: Run) -> str:
    """Return a trajectory of the surviving lineage that is better than one of its siblings, and none better."""
    scores = {row["id"]: row["value"] for row in run.sql("SELECT trajectory_id AS id, value FROM scores")}
    for batch in SurvivingLineage.load(run.path).batches:
        for name in batch:
            siblings = [other for other in batch if Slot.parse(slot_of(other)).group == Slot.parse(slot_of(name)).group]
            if len({scores[other] for other in siblings}) > 1:
                return max(siblings, key=scores.__getitem__)
    raise AssertionError("no group has a spread of rewards")


def slot_of(name: str) -> str:
    """Return the slot of a trajectory id: all but attempt and node."""
    return name.rsplit(".", 2)[0]


def flip_one_bit(logprobs: NDArray[np.float32]) -> None:
    sampled = int(np.flatnonzero(logprobs)[0])
    logprobs[sampled : sampled + 1].view(np.uint32)[:] ^= 1 << 20


def raise_it(reward: NDArray[np.float64]) -> None:
    reward += 1.0


@pytest.mark.parametrize(
    ("stream", "column", "change"), [("trajectories", "logprobs", flip_one_bit), ("scores", "value", raise_it)]
)
def test_an_altered_record_is_noticed(
    disturbed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], stream: str, column: str, change: Any
):
    code, result = replay(altered(disturbed, tmp_path, stream, column, change), capsys)
    assert code == 1 and result["differences"], "the altered value changed nothing"

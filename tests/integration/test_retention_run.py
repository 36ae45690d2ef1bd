"""A run that lets go of old files while it goes on, is resumed, and still has balanced books."""

from __future__ import annotations

from pathlib import Path

import pytest

import launch
from buffers.records.audit import audit
from buffers.records.query import query
from buffers.retired import read_retired

pytestmark = pytest.mark.integration

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")
SHORT = ("warm_start.updates=0", "eval.tasks=0", "logging.report=false", "logging.view=quiet", "cluster.address=local")
SMALL = (
    *("checkpoint.every=2", "checkpoint.keep_last=1", "checkpoint.keep_best=0"),
    *("retention.payload_updates=2", "retention.ledger_updates=3"),
    *("buffer.segment_bytes=4000", "buffer.commit_interval_s=0.001"),
    "buffer.sampler={target: replay, times: 2, share: 0.5, max_age: 2}",
)


def stored(run: Path) -> set[int]:
    return {
        row["version"] for row in query(run, "SELECT DISTINCT oldest_version AS version FROM trajectories").to_pylist()
    }


def test_a_run_retires_old_files_and_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    words = [SMOKE, "name=run", f"runs_folder={tmp_path}", *SHORT, *SMALL]
    assert launch.main(["run", *words, "updates=14"]) == 0
    first = read_retired(run)
    books = audit(run)
    assert books.balanced, books.problems
    assert first.ledger_below > 0 and first.payloads_below >= first.ledger_below
    assert 0 < min(stored(run)) < max(stored(run)) >= 10
    assert books.totals["trained"] == first.totals["trained"] + query(
        run, "SELECT count(DISTINCT (source, epoch, task, sample)) AS n FROM events WHERE event = 'trained'"
        f" AND epoch * {first.tasks_per_epoch} + task >= {first.ledger_below}"
    )["n"][0].as_py()  # fmt: skip

    assert launch.main(["run", *words, "updates=20", "resume=true"]) == 0
    second, books = read_retired(run), audit(run)
    assert books.balanced, books.problems
    assert second.ledger_below > first.ledger_below and second.trained_groups > first.trained_groups
    capsys.readouterr()
    assert launch.main(["replay", str(run)]) == 2
    assert "replay needs all of them" in capsys.readouterr().err

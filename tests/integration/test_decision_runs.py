"""What holds of the stream holds of decision policies: staleness 0, the books, replay, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import launch
from buffers.records.query import query
from tests.integration.played_runs import differences, play

CARTPOLE = Path(launch.__file__).parent / "configs" / "cartpole.yaml"
SMALL = ("environment.lanes=12", "environment.fragments_per_update=12", "rollout.slots=16", "checkpoint.every=0")


@pytest.fixture(scope="module")
def sync(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    reference = play(tmp_path_factory.mktemp("sync"), "sync", "mode=sync", *SMALL, preset=CARTPOLE)
    assert len({row["weights_sha256"] for row in reference["weights"]}) == 5, "the reference learns nothing"
    return reference


@pytest.mark.integration
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("halves", [1, 2])
def test_async_at_staleness_zero_equals_sync_under_random_delays(
    tmp_path: Path, sync: Any, workers: int, halves: int
) -> None:
    words = (f"rollout.workers={workers}", f"environment.halves={halves}", "rollout.max_delay_s=0.05")
    assert differences(sync, play(tmp_path, "delayed", *SMALL, *words, preset=CARTPOLE)) == []


@pytest.mark.integration
@pytest.mark.parametrize(("actors", "backend"), [(1, "shared_memory"), (2, "object_store")])
def test_so_it_does_when_inference_actors_compute_the_actions(
    tmp_path: Path, sync: Any, actors: int, backend: str
) -> None:
    words = (f"rollout.inference.actors={actors}", f"publish.backend={backend}", "rollout.workers=3")
    delays = ("environment.halves=2", "rollout.max_delay_s=0.05")
    assert differences(sync, play(tmp_path, "asking", *SMALL, *words, *delays, preset=CARTPOLE)) == []


@pytest.mark.integration
def test_two_updates_of_staleness_give_other_weights(tmp_path: Path, sync: Any) -> None:
    stale = play(tmp_path, "stale", *SMALL, "max_staleness=2", preset=CARTPOLE)
    assert differences(sync, stale) != []
    ages = query(
        tmp_path / "stale",
        """
        SELECT max(e.version - t.oldest_version) AS age FROM events e JOIN trajectories t USING (id)
        WHERE e.event = 'trained'
    """,
    ).to_pylist()[0]["age"]
    assert ages <= 2

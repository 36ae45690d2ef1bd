"""Which slots kill workers: found with few deaths, and never a bystander."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from pathlib import Path

import pytest
from stream_scene import Scene

from buffers.files import OsFiles
from buffers.identity import Slot
from buffers.quarantine import Quarantine, quarantined
from buffers.records.audit import audit
from buffers.suspects import Suspects, company
from buffers.trajectory import Unit

POISON = "Worker exits with code 7"


@pytest.mark.parametrize(
    ("held", "kills", "most", "together"),
    [
        (64, 1, 3, 8),
        (8, 2, 3, 1),
        (64, 1, 4, 16),
        (16, 2, 4, 4),
        (4, 3, 4, 1),
        (64, 1, 2, 1),
        (1, 1, 3, 1),
        (5, 9, 3, 1),
    ],
)
def test_company_shrinks_by_equal_factors_to_one(held: int, kills: int, most: int, together: int) -> None:
    assert company(held, kills, most) == together


def generate(scene: Scene, poison: Collection[int], *, workers: int, room: int, rng: random.Random) -> int:
    """Play workers until a batch is ready; one that is given a poison task dies of it. Returns deaths."""
    deaths, held = 0, {f"w{i}": list[Unit]() for i in range(workers)}
    for _ in range(2000):
        if scene.buffer.compose() is not None:
            break
        name = rng.choice(sorted(held))
        units = held.pop(name)
        units += scene.buffer.lease(name, room - len(units))
        if any(unit.slot.task in poison for unit in units):
            scene.buffer.lose(name, POISON)
            deaths, name, units = deaths + 1, f"{name}'", []
        elif units:
            rng.shuffle(units)
            finished = rng.randint(1, len(units))
            scene.finish(units[:finished])
            units = units[finished:]
        held[name] = units
    return deaths


@pytest.mark.parametrize("seed", range(8))
def test_poison_is_found_and_bystanders_are_kept(tmp_path: Path, seed: int) -> None:
    rng, folder = random.Random(f"poison {seed}"), tmp_path / "run"
    poison, kills = set(rng.sample(range(12), rng.randint(0, 3))), rng.randint(2, 4)
    scene = Scene(folder, groups=12, members=1, max_staleness=0, max_worker_kills=kills, max_attempts=99)
    scene.buffer._quarantine = Quarantine(folder, OsFiles())
    deaths = generate(scene, poison, workers=rng.randint(1, 3), room=rng.randint(1, 16), rng=rng)
    assert {Slot.parse(slot).task for slot in quarantined(folder)} == poison
    assert deaths >= kills * bool(poison)
    assert scene.buffer.dropped.get("quarantined", 0) == len(poison)
    assert scene.buffer.compose() is not None, "the batch is made of what is left, and of new groups"
    assert not len(scene.buffer._suspects), "whoever came back is cleared"
    scene.close()
    assert audit(folder).balanced


def test_the_evidence_names_workers_ends_and_the_task(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0, max_worker_kills=2)
    scene.buffer._quarantine = Quarantine(tmp_path / "run", OsFiles())
    assert len(scene.buffer.lease("a", 2)) == 2
    scene.buffer.lose("a", "signal 9")
    first = scene.buffer.lease("b", 2)
    assert len(first) == 1, "the last death must say which one it was"
    scene.buffer.lose("b", "signal 11")
    (file,) = (tmp_path / "run" / "quarantine").glob("*.json")
    evidence = json.loads(file.read_text())
    assert evidence["slot"] == str(first[0].slot) and evidence["task"]["prompt"] == "0?"
    assert [(k["worker"], k["attempt"], k["held"], k["exit"]) for k in evidence["kills"]] == [
        ("a", 0, 2, "signal 9"), ("b", 1, 1, "signal 11"),
    ]  # fmt: skip
    assert all(k["time"] > 1e9 for k in evidence["kills"])
    failed = scene.buffer.lease("c", 2)
    scene.finish(failed)
    scene.train()
    scene.close()
    result = audit(tmp_path / "run")
    assert result.balanced and result.totals["failed"] == 1 and result.totals["trained"] == 1


def test_a_farewell_makes_nobody_a_suspect(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "run", groups=1, members=2, max_staleness=0, max_worker_kills=2, max_attempts=9)
    for worker in "abcd":
        assert len(scene.buffer.lease(worker, 2)) == 2
        scene.buffer.lose(worker)
    assert not len(scene.buffer._suspects)
    scene.close()


def test_one_worker_is_kept_free_for_suspects_and_the_others_go_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "run", groups=8, members=1, max_staleness=4, max_worker_kills=2)
    busy = scene.buffer.lease("busy", 4)
    scene.buffer.lease("other", 1)
    scene.buffer.lease("dies", 1)
    scene.buffer.lose("dies", POISON)
    assert scene.buffer.lease("busy", 4) == [], "it waits until it has nothing else"
    assert len(scene.buffer.lease("other", 4)) == 4, "the others do not wait"
    scene.finish(busy)
    alone = scene.buffer.lease("busy", 4)
    assert [unit.attempt for unit in alone] == [1]
    assert scene.buffer.lease("busy", 4) == [], "a suspect in its last life stays alone"
    scene.finish(alone)
    assert len(scene.buffer.lease("busy", 4)) == 4
    scene.close()


def test_suspects_forget_what_came_back() -> None:
    suspects, slot = Suspects(2), Slot("s", 0, 0, 0)
    assert suspects.blame([(slot, 0)], "w", 0.0, POISON) == []
    suspects.clear(slot)
    assert suspects.blame([(slot, 1)], "w", 0.0, POISON) == [], "it lived in between"
    assert suspects.blame([(slot, 2)], "w", 0.0, POISON) == [slot]

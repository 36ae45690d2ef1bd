"""The storm's own parts: what it deals, what it sees of it, what its witness notices; and a short storm on Ray."""

from __future__ import annotations

import math
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.chaos import SETTINGS, storm
from tests.faults.chaos_calm import compared
from tests.faults.chaos_faults import FAULTS
from tests.faults.chaos_plan import ANY_TIME, MOMENTS, PILLARS, SEVERE, Card, hands, severe
from tests.faults.chaos_record import STARTING, Blow, Record
from tests.faults.chaos_witness import wrongs
from tests.faults.kill_at import Cut
from tests.faults.killed_runs import KILLED, Run

pytestmark = pytest.mark.fault

NAMES = ("buffer", "driver", "gcs_server", "learner", "raylet", "reward.correct", "rollout", "supervisor")
Row = dict[str, Any]


# -- what it deals --------------------------------------------------------------------------------


def test_every_deck_has_every_fault_for_every_kind_of_process():
    cards = list(islice(hands(NAMES, random.Random(0)), 200))
    size = 3 * len(NAMES) + 4 * 2
    for deck in (cards[:size], cards[size : 2 * size]):
        assert {(c.fault, c.victim) for c in deck} == {
            *((fault, name) for fault in ("freeze", "slow", "partition") for name in NAMES),
            *((fault, name) for fault in ("kill", "hang") for name in NAMES if name not in PILLARS),
        }
        assert Counter(c.moment for c in deck if c.fault == "kill") == dict.fromkeys((ANY_TIME, *MOMENTS), 2)
    assert cards[:size] != cards[size : 2 * size], "each deck is shuffled"
    assert cards == list(islice(hands(NAMES, random.Random(0)), 200)), "the seed says it all"


def test_in_half_an_hour_each_pillar_falls_once_in_each_way():
    planned = severe(1800.0, random.Random(3))
    assert Counter(card for _, card in planned) == Counter(SEVERE)
    assert {card.victim for _, card in planned} == set(PILLARS)
    gaps = [b - a for (a, _), (b, _) in pairwise(planned)]
    assert min(gaps) > 100 and planned[-1][0] < 1800
    assert severe(30.0, random.Random(0)) == []


# -- what it sees ---------------------------------------------------------------------------------

IDLE = "input()"
WRITER = "import time\nf = open('{file}', 'ab', buffering=0)\nwhile True: f.write(b'x'); time.sleep(0.01)"
LISTENER = (
    "import socket, sys\ns = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
    "c, _ = s.accept()\nwhile d := c.recv(64): c.sendall(d)"
)


@contextmanager
def child(program: str) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("fault", ["kill", "freeze", "slow"])
def test_a_signal_is_seen_where_it_acts_and_not_where_nothing_is_left(fault: str):
    with child(IDLE) as process:
        victim = psutil.Process(process.pid)
        assert FAULTS[fault](victim, 1.0)
        assert (process.poll() is None) == (fault != "kill"), "it goes on as before"
        assert fault == "kill" or victim.status() != psutil.STATUS_STOPPED
        process.kill()
        process.wait()
        with pytest.raises(psutil.NoSuchProcess):
            FAULTS[fault](victim, 1.0)


def test_a_hang_is_seen_when_somebody_ends_the_victim_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.faults.chaos_faults.SEEN_S", 0.2)
    with child(IDLE) as process:
        victim = psutil.Process(process.pid)
        assert not FAULTS["hang"](victim, 0.2), "nobody cared"
        assert process.poll() is None and victim.status() != psutil.STATUS_STOPPED
        threading.Timer(0.2, process.kill).start()
        assert FAULTS["hang"](victim, 30.0)


def test_a_full_disk_is_seen_when_the_victim_ends_of_it(tmp_path: Path):
    with child(IDLE) as process:
        assert not FAULTS["full disk"](psutil.Process(process.pid), 0.2), "it writes nothing"
        assert process.poll() is None
    with child(WRITER.format(file=tmp_path / "file")) as process:
        while not (tmp_path / "file").exists():
            time.sleep(0.01)
        assert FAULTS["full disk"](psutil.Process(process.pid), 30.0)
        assert process.wait(30) == 1


def test_a_partition_is_seen_when_something_is_not_heard_and_heals():
    with child(LISTENER) as process:
        assert process.stdout is not None
        victim, port = psutil.Process(process.pid), int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(b"before")
            assert peer.recv(64) == b"before"
            assert not FAULTS["partition"](victim, 0.2), "nobody spoke to it"
            threading.Timer(0.3, peer.sendall, (b"meanwhile",)).start()
            peer.settimeout(0.7)
            heard = threading.Thread(target=_no_answer, args=(peer,))
            heard.start()
            assert FAULTS["partition"](victim, 1.5)
            heard.join()
            peer.settimeout(30.0)
            assert peer.recv(64) == b"meanwhile", "it is sent again when the cable is back"


def _no_answer(peer: Any) -> None:
    with pytest.raises(TimeoutError):
        peer.recv(64)


# -- what it writes down --------------------------------------------------------------------------


def blow(fault: str, victim: str, **more: Any) -> Blow:
    known: dict[str, Any] = {"state": "streaming", "effect": "gone", "began_s": 10.0, "over_s": 12.0}
    return Blow(fault=fault, victim=victim, **known | {"members": 2, "ends": 0} | more)


def test_a_run_is_over_a_fault_when_the_pool_is_whole_and_updates_followed():
    record = Record()
    record.add(blow("kill", "rollout"))
    record.add(blow("freeze", "rollout"))
    record.look(12.5, 7, {"rollout": 2})
    record.look(13.0, 8, {"rollout": 2})
    record.look(14.0, 9, {"rollout": 1})
    assert len(record.open) == 2, "one update, then two, but a member is missing"
    record.look(15.0, 9, {"rollout": 2})
    assert [each.recovered_s for each in record.blows] == [5.0, 3.0], "from the kill; from the end of a freeze"
    assert record.open == []


def test_what_another_fault_made_longer_has_no_time_of_its_own():
    assert blow("freeze", "rollout").is_alone and not blow("freeze", "rollout", state=STARTING).is_alone
    assert not blow("freeze", "rollout", ended=1).is_alone, "the run was ended by something else"
    assert blow("kill", "buffer", ended=1).is_alone and not blow("kill", "buffer", ended=2).is_alone
    assert not blow("kill", "rollout", ended=1).is_alone


def test_the_table_counts_what_was_seen():
    record = Record()
    for recovered_s in (1.0, 2.0, 9.0):
        record.add(blow("kill", "rollout", recovered_s=recovered_s))
    record.add(blow("slow", "driver", recovered_s=0.5))
    record.add(blow("kill", "driver", effect=""))
    *_, driver, rollout, everything = record.table().splitlines()
    assert driver.split("|")[1:-1] == [" driver ", "  ", "  ", "  ", " 1: 0.5 / 0.5 ", "  ", "  ", " 1: 0.5 / 0.5 "]
    assert "| 3: 2.0 / 9.0 |" in rollout and everything.endswith("| 4: 1.5 / 9.0 |")
    assert record.missing(("rollout", "driver"), ("streaming", "starting"), 2) == ["driver: 1", "starting: 0"]


def test_accuracies_are_alike_within_three_standard_errors_of_the_difference_of_means():
    # Variances of 0.0008 / 3 and 0.0036 / 3: an error of 0.0191, and three of them are 0.0574.
    calm, stormy = [0.78, 0.80, 0.80, 0.82], [0.82, 0.82, 0.88, 0.88]
    found = compared(stormy, calm)
    assert found["error"] == pytest.approx(math.sqrt((0.0008 / 3 + 0.0036 / 3) / 4), abs=1e-4)
    assert found["apart"] == pytest.approx(0.05) and found["alike"]
    assert not compared([share + 0.01 for share in stormy], calm)["alike"]
    assert compared([1.0] * 4, [1.0] * 4)["alike"] and not compared([0.98] * 4, [1.0] * 4)["alike"]


def test_checkpoints_that_agree_vary_as_a_share_of_the_tasks_does():
    # A share of 0.9 of 800 tasks has a variance of 0.09 / 800; of two runs with four each: an error of 0.0075.
    assert compared([0.9] * 4, [0.9] * 4)["error"] == pytest.approx(math.sqrt(2 * 0.09 / 800 / 4), abs=1e-4)


# -- what its witness notices ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("resumed"))
    assert run.play(cut=Cut(target="buffers.host:BufferHost.commit", call=4)) == KILLED, run.log
    assert run.resume() == 0, run.log
    return run


def test_a_run_that_was_killed_and_resumed_keeps_every_promise(resumed: Run):
    assert wrongs(resumed.path, over=True) == []


def trained(rows: list[Row]) -> Row:
    return next(row for row in rows if row["event"] == "trained")


def twice(rows: list[Row]) -> None:
    rows.append(dict(trained(rows)))


def unrewarded(rows: list[Row]) -> None:
    trained(rows)["reward"] = None


def endless(rows: list[Row]) -> None:
    rows[:] = [row for row in rows if row["id"] != trained(rows)["id"] or row["event"] != "trained"]


def skipped(rows: list[Row]) -> None:
    rows[:] = [row for row in rows if row["task"] != 0]


def incomplete(rows: list[Row]) -> None:
    rows[:] = [row for row in rows if (row["task"], row["sample"]) != (0, 1)]


def early(rows: list[Row]) -> None:
    trained(rows)["version"] = -1


def late(rows: list[Row]) -> None:
    trained(rows)["version"] = 99


def unstored(rows: list[Row]) -> None:
    trained(rows)["id"] = "nobody:0:0:0.0.0"


EVENT_PLANTS = {
    "slots trained twice": twice,
    "trained without a valid reward": unrewarded,
    "slots without an end": endless,
    "tasks that were skipped": skipped,
    "groups that lack a sample": incomplete,
    "trained on tokens of a version that came later": early,
    "trained on tokens older than the bound": late,
    "trained without a stored payload": unstored,
    "updates that trained on another number than their row says": twice,
}


@pytest.mark.parametrize("wrong", EVENT_PLANTS)
def test_the_witness_notices(resumed: Run, tmp_path: Path, wrong: str):
    run = Path(shutil.copytree(resumed.path, tmp_path / "run"))
    forge(run, "events", EVENT_PLANTS[wrong])
    assert any(found.startswith(wrong) for found in wrongs(run, over=True)), wrongs(run, over=True)


@pytest.mark.parametrize("wrong", ["versions with two rows", "lineages with gaps in their versions"])
def test_the_witness_notices_a_version_that_is(resumed: Run, tmp_path: Path, wrong: str):
    run = Path(shutil.copytree(resumed.path, tmp_path / "run"))
    forge(run, "versions", (lambda rows: rows.append(dict(rows[0]))) if "two" in wrong else (lambda rows: rows.pop(1)))
    assert any(found.startswith(wrong) for found in wrongs(run, over=True)), wrongs(run, over=True)


def forge(run: Path, stream: str, change: Callable[[list[Row]], object]) -> None:
    """Change the rows of a stream; all of them are then in its last file."""
    paths = sorted((run / "ledger").glob(f"{stream}-*.parquet"))
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    rows = table.to_pylist()
    change(rows)
    for path in paths:
        pq.write_table(table.schema.empty_table(), path)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), paths[-1])


# -- all of it ------------------------------------------------------------------------------------

SMALL = (
    "configs/smoke.yaml", *SETTINGS, "intrinsic=none", "warm_start.updates=2", "eval.tasks=0", "checkpoint.every=5",
    "rewards.components.correct.replicas=2",
)  # fmt: skip


@pytest.mark.integration
@pytest.mark.timeout(280)
def test_a_short_storm_on_ray_loses_nothing(tmp_path: Path):
    found = storm(SMALL, tmp_path, 10.0, seed=0, falls=[(3.0, Card("kill", "driver"))])
    assert found["exit_code"] == 0 and found["by_victim"]["driver"] >= 1, found
    assert len(found["ends"]) >= 2, "it was ended once, and stopped at last"

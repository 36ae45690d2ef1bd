"""The timeline of a real run keeps the rules of the trace-event format, and says what the ledger says."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

import launch
from buffers.records.query import query
from buffers.records.trace_events import lanes

pytestmark = pytest.mark.integration

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")
Event = dict[str, Any]
GENERATED = "id IN (SELECT id FROM events WHERE event = 'generated')"
"""A payload whose ledger row the run's end prevented is no trajectory."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two workers, in which a third of every batch is trained twice."""
    folder = tmp_path_factory.mktemp("timeline")
    short = ("warm_start.updates=0", "updates=6", "eval.tasks=0", "logging.report=false", "logging.view=quiet")
    # Small messages: neither worker takes all the work.
    words = (
        "cluster.address=local",
        "rollout.workers=2",
        "rollout.message_samples=2",
        "buffer.sampler={target: replay, share: 0.3}",
    )
    assert launch.main(["run", SMOKE, "name=run", f"runs_folder={folder}", *short, *words]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def events(run: Path) -> list[Event]:
    assert launch.main(["timeline", str(run), "--limit", "0"]) == 0
    found: list[Event] = json.loads((run / "timeline.json").read_text())["traceEvents"]
    return found


def track(event: Event) -> tuple[int, int]:
    return event["pid"], event["tid"]


def named(events: list[Event], kind: str) -> dict[Any, str]:
    names = [e for e in events if e["ph"] == "M" and e["name"] == kind]
    return {track(e) if kind == "thread_name" else e["pid"]: e["args"]["name"] for e in names}


def slices(events: list[Event], process: str) -> list[Event]:
    processes = named(events, "process_name")
    return [e for e in events if e["ph"] == "X" and processes[e["pid"]].startswith(process)]


def test_every_track_is_named_once_and_times_rise_from_zero(events: list[Event]) -> None:
    assert {event["ph"] for event in events} == {"M", "X", "s", "t", "f"}
    timed = [event for event in events if event["ph"] != "M"]
    assert timed[0]["ts"] == 0 and all(a["ts"] <= b["ts"] for a, b in itertools.pairwise(timed))
    threads = [track(e) for e in events if e["name"] == "thread_name"]
    assert len(threads) == len({*threads}) and {track(e) for e in timed} <= {*threads}
    assert {e["pid"] for e in timed} == {*named(events, "process_name")}
    assert [*named(events, "process_name").values()] == [
        "rollout rollout-0", "rollout rollout-1", "reward correct", "buffer", "learner"
    ]  # fmt: skip


def test_slices_of_a_track_nest_and_never_cross(events: list[Event]) -> None:
    open_ends: dict[tuple[int, int], list[float]] = defaultdict(list)
    for event in (e for e in events if e["ph"] == "X"):
        ends = open_ends[track(event)]
        while ends and ends[-1] <= event["ts"] + 1e-3:
            ends.pop()
        end = event["ts"] + event["dur"]
        assert event["dur"] >= 0 and (not ends or end <= ends[-1] + 2e-3), event
        ends.append(end)


def test_arrows_lead_from_generation_through_buffer_and_score_to_the_updates_of_the_ledger(
    run: Path, events: list[Event]
) -> None:
    held: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in (e for e in events if e["ph"] == "X"):
        held[track(event)].append(event)
    chains: dict[int, list[Event]] = defaultdict(list)
    for event in (e for e in events if e["ph"] in "stf"):
        chains[event["id"]].append(event)
    processes, ends = named(events, "process_name"), Counter()
    for chain in chains.values():
        assert [e["ph"] for e in chain] == ["s", *["t"] * (len(chain) - 2), "f"] and chain[-1]["bp"] == "e"
        assert len({e["name"] for e in chain}) == 1
        stops = [processes[e["pid"]].split()[0] for e in chain]
        scored = stops[2:3] == ["reward"]  # the run's end cuts some short
        assert stops[:2] == ["rollout", "buffer"] and {*stops[3:]} <= {"learner"} and (scored or len(stops) == 2)
        for event in chain:
            assert any(s["ts"] <= event["ts"] <= s["ts"] + s["dur"] for s in held[track(event)])
            if processes[event["pid"]] == "learner":
                update = next(s for s in held[track(event)] if s["ts"] == event["ts"] and "makes" in s["args"])
                ends[event["name"], update["args"]["version"]] += 1
    trained = query(run, "SELECT id, version FROM events WHERE event = 'trained'").to_pylist()
    assert ends == Counter((row["id"], row["version"]) for row in trained)
    assert any(count > 1 for count in Counter(name for name, _ in ends).values())  # trained twice: two arrows


def test_a_trajectory_shows_what_was_recorded_of_it(run: Path, events: list[Event]) -> None:
    rows = {row["id"]: row for row in query(run, f"SELECT * FROM trajectories WHERE {GENERATED}").to_pylist()}
    scored = {*query(run, "SELECT trajectory_id FROM scores")["trajectory_id"].to_pylist()}
    shown = {e["args"]["id"]: e for e in slices(events, "rollout") if "id" in e["args"]}
    assert shown.keys() == rows.keys()
    for name, event in shown.items():
        row, args = rows[name], event["args"]
        stamps = [f"v{v} x {n}" for v, n in zip(row["version_values"], row["version_counts"], strict=True)]
        assert args["versions"] == stamps and args["tokens"] == len(row["tokens"])
        assert event["dur"] == pytest.approx(1e6 * (row["finished_at"] - row["started_at"]), abs=1)
        assert args["reward"].keys() == ({"correct"} if name in scored else {*()}) and args["status"] == row["status"]
    workers = query(run, "SELECT worker, count(*) AS n FROM events WHERE event = 'generated' GROUP BY worker")
    by_worker = Counter(named(events, "process_name")[event["pid"]] for event in shown.values())
    assert by_worker == {f"rollout {row['worker']}": row["n"] for row in workers.to_pylist()}


def test_updates_publish_and_workers_swap_afterwards(run: Path, events: list[Event]) -> None:
    updates = [e for e in slices(events, "learner") if "makes" in e["args"]]
    assert [e["args"]["makes"] for e in updates] == [1, 2, 3, 4, 5, 6]
    sent = {e["args"]["version"]: e["ts"] for e in slices(events, "learner") if "weights_sha256" in e["args"]}
    hashes = query(run, "SELECT version, weights_sha256 AS sha FROM versions WHERE version > 0").to_pylist()
    assert {e["args"]["version"]: e["args"]["weights_sha256"] for e in slices(events, "learner")
            if "weights_sha256" in e["args"]} == {row["version"]: row["sha"] for row in hashes}  # fmt: skip
    swaps = [e for e in slices(events, "rollout") if e["name"].startswith("swap")]
    assert swaps and all(e["ts"] + e["dur"] >= sent[e["args"]["version"]] for e in swaps)


def test_a_limit_keeps_the_newest_and_gz_is_compressed(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.json.gz"
    assert launch.main(["timeline", str(run), "--limit", "20", "--output", str(target), "--json"]) == 0
    some = json.loads(gzip.decompress(target.read_bytes()))["traceEvents"]
    shown = {e["args"]["id"] for e in slices(some, "rollout") if "id" in e["args"]}
    newest = query(run, f"SELECT id FROM trajectories WHERE {GENERATED} ORDER BY finished_at DESC, id LIMIT 20")
    assert shown == {*newest["id"].to_pylist()}


def test_a_run_without_a_trajectory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("ledger", "trajectories", "metrics"):
        (tmp_path / part).mkdir()
    assert launch.main(["timeline", str(tmp_path)]) == 2
    assert "has no trajectory with times" in capsys.readouterr().err


def test_lanes_are_as_few_as_what_runs_side_by_side() -> None:
    spans = [(0.0, 4.0), (1.0, 2.0), (2.0, 3.0), (1.5, 5.0), (4.0, 6.0)]
    assert lanes(spans) == [0, 1, 1, 2, 0]
    assert lanes([]) == []

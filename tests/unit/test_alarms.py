"""Alarms: when they are raised and cleared, what they say, and where they stay."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.listener import RunListener
from actors.live_view import LiveView
from actors.view import PlainView, QuietView
from buffers.records.alarm_log import AlarmLog, active_alarms, alarm_totals, read_alarms
from buffers.records.alarms import ALARMS, AlarmWatch, Change, State, step
from buffers.records.metric_names import describe
from buffers.records.metrics import read_metrics
from buffers.records.report import write_report
from configs.alarms import AlarmsConfig
from configs.errors import ConfigError, RunError
from configs.load import load_config
from configs.schema import RunConfig

BEYOND = {
    "mismatch_kl": ({"rollout/mismatch_kl/mean": 0.2}, {"rollout/mismatch_kl/mean": 0.1}),
    "staleness": ({"staleness/mean": 3.7}, {"staleness/mean": 3.6}),  # of 4
    "spill": ({"object_store/spill_rate": 1.0}, {"object_store/spill_rate": 0.0}),
    "abstained:judge": ({"rewards/judge/abstained": 0.21}, {"rewards/judge/abstained": 0.2}),
    "failed:judge": ({"rewards/judge/failed": 0.11}, {"rewards/judge/failed": 0.1}),
    "entropy": ({"policy/entropy": 0.009}, {"policy/entropy": 0.01}),
    "learner_idle": ({"idle/learner": 0.95}, {"idle/learner": 0.9}),
    "no_progress": ({"time/without_batch": 121.0}, {"time/without_batch": 0.0}),
    "label_lag": ({"intrinsic/reward_lag_p50_s": 301.0}, {"intrinsic/reward_lag_p50_s": 300.0}),
}


def config(**alarms: Any) -> RunConfig:
    return RunConfig(max_staleness=4, alarms=AlarmsConfig(**alarms))


def played(readings: str, raise_after: int, clear_after: int) -> str:
    """Return the state after each reading of "x" (beyond) and "." (within): "R" raised, "-" not."""
    state, told = State(), ""
    for reading in readings:
        state = step(state, reading == "x", raise_after=raise_after, clear_after=clear_after)
        told += "R" if state.raised else "-"
    return told


@pytest.mark.parametrize(
    ("raise_after", "clear_after", "readings", "states"),
    [
        (1, 1, "x.x.", "R-R-"),
        (3, 2, "xx.xxx", "-----R"),
        (3, 2, "xxx.x.x..x", "--RRRRRR--"),
        (2, 3, ".xx..x...xx", "--RRRRRR--R"),
        (1, 5, "x....", "RRRRR"),
    ],
)
def test_hysteresis(raise_after: int, clear_after: int, readings: str, states: str):
    assert played(readings, raise_after, clear_after) == states


@pytest.mark.parametrize("raise_after", [1, 2, 4])
@pytest.mark.parametrize("clear_after", [1, 3])
def test_every_change_follows_as_many_readings_in_a_row_as_were_asked_for(raise_after: int, clear_after: int):
    for readings in map("".join, itertools.product("x.", repeat=9)):
        states = played(readings, raise_after, clear_after)
        for i, (before, after) in enumerate(itertools.pairwise("-" + states)):
            due = "x" * raise_after if before == "-" else "." * clear_after
            # A run of readings counts from the last change on.
            since = max((j for j in range(i) if ("-" + states)[j] != states[j]), default=-1) + 1
            assert (before != after) == readings[since : i + 1].endswith(due), (readings, states, i)


@pytest.mark.parametrize("alarm", BEYOND)
def test_each_alarm_reads_its_metric(alarm: str):
    beyond, within = BEYOND[alarm]
    watch = AlarmWatch(config())
    assert [watch.read(beyond) for _ in range(2)] == [[], []]
    (change,) = watch.read(beyond)
    assert (change.alarm, change.raised, change.fatal) == (alarm, True, False)
    assert f"(alarms.{alarm.partition(':')[0]})" in change.text and next(iter(beyond)) in change.text
    assert list(watch.active) == [alarm] and watch.gauges() == {f"alarm/{alarm}": 1.0}
    changes = [watch.read(within) for _ in range(5)]
    assert [len(found) for found in changes] == [0, 0, 0, 0, 1] and not changes[-1][0].raised
    assert watch.active == {} and watch.gauges() == {f"alarm/{alarm}": 0.0}


def test_the_table_has_every_setting_once_and_metrics_of_the_glossary():
    assert sorted(alarm.name for alarm in ALARMS) == sorted(AlarmsConfig.names())
    assert {name.partition(":")[0] for name in BEYOND} == set(AlarmsConfig.names())
    assert [alarm.name for alarm in ALARMS if describe(alarm.metric.replace("<component>", "x")) is None] == []


def test_a_reading_without_the_metric_changes_nothing():
    watch = AlarmWatch(config(raise_after=2))
    beyond, _ = BEYOND["entropy"]
    assert watch.read(beyond) == watch.read({"reward/mean": 0.0}) == []
    assert len(watch.read(beyond)) == 1


def test_what_is_not_a_number_is_beyond_every_threshold():
    assert AlarmWatch(config(raise_after=1)).read({"policy/entropy": math.nan})[0].raised


def test_alarms_that_are_off_or_cannot_be_raised_are_not_read():
    assert AlarmWatch(config(entropy=None, raise_after=1)).read({"policy/entropy": 0.0}) == []
    on_policy = RunConfig(max_staleness=0, alarms=AlarmsConfig(raise_after=1))
    assert AlarmWatch(on_policy).read({"staleness/mean": 0.0}) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("alarms.fatal=[entropi]", "alarms.fatal is 'entropi'; it must be one of"),
        ("alarms.raise_after=0", "alarms.raise_after is 0; it must be >= 1"),
        ("alarms.entropi=1", "entropy"),
    ],
)
def test_wrong_settings_are_named(word: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config([], [word])


def test_an_alarm_without_a_threshold_cannot_be_fatal():
    with pytest.raises(ConfigError, match=r"alarms\.entropy is null"):
        load_config([], ["alarms.fatal=[entropy]", "alarms.entropy=null"])


# What a run does with them


def read(listener: RunListener, name: str, beyond: bool, times: int) -> None:
    for update in range(times):
        listener.update(update, BEYOND[name][0 if beyond else 1], {})


def test_a_listener_tells_the_view_the_log_and_the_metrics(tmp_path: Path):
    out = io.StringIO()
    listener = RunListener(config(raise_after=2, clear_after=2), tmp_path, PlainView(out))
    read(listener, "abstained:judge", True, 2)
    assert [(name, alarm["update"]) for name, alarm in active_alarms(tmp_path).items()] == [("abstained:judge", 1)]
    read(listener, "abstained:judge", False, 3)
    assert active_alarms(tmp_path) == {}
    listener.waiting(7, BEYOND["no_progress"][0])
    listener.waiting(7, BEYOND["no_progress"][0])
    listener.close()
    lines = [line for line in out.getvalue().splitlines() if line.startswith("!")]
    assert [line.split(":")[0] for line in lines] == ["! alarm abstained", "! alarm abstained", "! alarm no_progress"]
    assert lines[1].endswith("abstained:judge is over")
    rows = {(row["update"], row["name"]): row["value"] for row in read_metrics(tmp_path).to_pylist()}
    assert rows[7, "alarm/no_progress"] == 1.0 and rows[2, "alarm/abstained:judge"] == 0.0
    totals = alarm_totals(tmp_path)
    assert {name: (t["raised"], t["active"]) for name, t in totals.items()} == {
        "abstained:judge": (1, False),
        "no_progress": (1, True),
    }


def test_a_fatal_alarm_ends_the_run_after_it_is_on_disk(tmp_path: Path):
    listener = RunListener(config(fatal=["entropy"], raise_after=1), tmp_path, QuietView(io.StringIO()))
    read(listener, "failed:judge", True, 1)
    with pytest.raises(RunError, match=r"alarm entropy ended the run \(alarms\.fatal\): the policy has collapsed"):
        read(listener, "entropy", True, 1)
    assert set(active_alarms(tmp_path)) == {"failed:judge", "entropy"}


def test_a_run_that_begins_again_clears_what_was_left_raised_and_survives_half_a_line(tmp_path: Path):
    log = AlarmLog(tmp_path, time=1.0)
    log.write(Change("entropy", True, "it fell"), update=3, time=2.0)
    with (tmp_path / "alarms.jsonl").open("a") as file:
        file.write('{"time": 3.0, "ala')  # the process was killed here
    assert list(active_alarms(tmp_path)) == ["entropy"]
    AlarmLog(tmp_path, time=4.0).write(Change("failed:a", True, "it fails"), update=3, time=5.0)
    told = [(change["time"], change["alarm"], change["raised"]) for change in read_alarms(tmp_path)]
    assert told == [(2.0, "entropy", True), (4.0, "entropy", False), (5.0, "failed:a", True)]


def test_the_live_view_keeps_a_line_while_an_alarm_is_raised():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    view = LiveView("run", console, animate=False)
    view.alarms({"entropy": "the policy has collapsed: policy/entropy is 0"})
    view.update(1, 10, {"reward/mean": 0.5}, {})
    assert drawn(view).count("▲ entropy") == 1
    view.alarms({})
    assert "▲" not in drawn(view)


def drawn(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(view.render())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_report_lists_alarms(tmp_path: Path):
    AlarmLog(tmp_path, time=0.0).write(Change("entropy", True, "it <fell>"), update=3, time=0.0)
    page = write_report(tmp_path).read_text()
    assert "Alarms" in page and "1970-01-01 00:00:00" in page and "it &lt;fell&gt;" in page

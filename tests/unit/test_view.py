"""The views say what a person needs, when they need it, and who waits for whom."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from actors.live_view import LiveView, sparkline
from actors.readout import Recent, duration, summary_rows
from actors.view import PlainView, QuietView, bottleneck, make_view
from configs.errors import ConfigError

METRICS = {
    "reward/mean": 0.7125,
    "staleness/mean": 1.14,
    "staleness/max": 2.0,
    "perf/throughput": 1510.4,
    "idle/learner": 0.62,
}
SUMMARY = {
    "status": "finished",
    "wall_s": 200.0,
    "policy_version": 200,
    "weights_sha256": "ab12cd34ef567890",
    "trajectories": {"admitted": 1030, "trained": 1024, "dropped": 0, "rolled_back": 6},
    "samples_per_s": 1510.2,
    "staleness": {"mean": 1.1, "p95": None, "max": 2},
    "eval": {"before": {"accuracy": 0.552}, "after": {"accuracy": 0.913}},
    "idle": {"learner": 0.31, "rollout": 0.12},
}


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({}, ""),
        ({"reward/mean": 1.0}, ""),
        ({"idle/learner": 0.62, "idle/rollout": 0.1}, "learner waiting 62 % on rollout"),
        ({"idle/learner": 0.1, "idle/rollout": 0.4}, "rollout waiting 40 % on learner"),
        ({"idle/learner": 0.09, "idle/rollout": 0.05}, "balanced"),
        ({"time/total": 2.0, "time/wait_for_batch": 0.5}, "learner waiting 25 % on rollout"),
        ({"idle/learner": 0.5, "time/total": 2.0, "time/wait_for_batch": 0.2}, "learner waiting 50 % on rollout"),
        (
            {"idle/learner": 0.5, "pool/reward.judge/busy": 0.97, "pool/reward.exact/busy": 0.2},
            "learner waiting 50 % on reward `judge`",
        ),
        ({"idle/learner": 0.5, "pool/reward.judge/busy": 0.5}, "learner waiting 50 % on rollout"),
    ],
)
def test_the_bottleneck_names_who_waits_for_whom(metrics: dict[str, float], sentence: str) -> None:
    assert bottleneck(metrics) == sentence


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_plain_line_ends_with_the_bottleneck() -> None:
    out, clock = io.StringIO(), Clock()
    view = PlainView(out, clock)
    view.evaluation(0, {"accuracy": 0.552})
    view.update(10, 200, METRICS, {"rollout": 1})
    clock.now += 20.0
    view.update(60, 200, METRICS, {"rollout": 1})
    evaluation, first, second = out.getvalue().splitlines()
    assert evaluation == "· evaluation after 0 updates: accuracy 0.552"
    expected = "accuracy 0.552  reward 0.713  staleness 1.1 (max 2)  samples/s  1,510"
    assert first == f" 10/200  {expected}  learner waiting 62 % on rollout"
    # 50 updates took 20 s, so 140 take 56 s; a resumed run counts from where it began.
    assert second == f" 60/200  {expected}  learner waiting 62 % on rollout  56 s left"


def test_rates_and_idle_shares_are_averaged_over_the_last_updates() -> None:
    recent = Recent()
    recent.add({"perf/throughput": 100.0, "idle/learner": 0.2, "reward/mean": 0.1})
    shown = recent.add({"perf/throughput": 300.0, "idle/learner": 0.4, "reward/mean": 0.9})
    # The same number of samples at 100/s and at 300/s: 150/s.
    assert shown == pytest.approx({"perf/throughput": 150.0, "idle/learner": 0.3, "reward/mean": 0.9})
    for _ in range(10):
        shown = recent.add({"perf/throughput": 50.0, "idle/learner": float("nan")})
    assert shown["perf/throughput"] == 50.0 and math.isnan(shown["idle/learner"])


def test_a_plain_view_writes_at_most_one_line_every_two_seconds_but_always_the_last() -> None:
    out, clock = io.StringIO(), Clock()
    view = PlainView(out, clock)
    for update in range(1, 12):
        view.update(update, 11, {}, {})
        clock.now += 0.5
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines == [["1/11"], ["5/11", "3", "s", "left"], ["9/11", "1", "s", "left"], ["11/11"]]


def test_a_plain_view_announces_phases_progress_and_warnings() -> None:
    out = io.StringIO()
    view = PlainView(out, Clock())
    view.phase("warm start")
    view.progress("warm start", 120, 300, "loss 0.41")
    view.progress("warm start", 121, 300, "loss 0.40")
    view.progress("warm start", 300, 300)
    view.warning("rollout-1 died")
    assert out.getvalue().splitlines() == [
        "· warm start",
        "  warm start 120/300 loss 0.41",
        "  warm start 300/300",
        "! rollout-1 died",
    ]


def test_the_summary_leaves_out_what_is_missing_or_zero() -> None:
    assert dict(summary_rows(SUMMARY)) == {
        "status": "finished",
        "accuracy": "0.552 → 0.913",
        "trajectories": "1,030 admitted · 1,024 trained · 6 rolled back",
        "throughput": "1,510 samples/s",
        "staleness": "mean 1.10 · max 2",
        "idle": "learner 31 % · rollout 12 %",
        "wall time": "3 min 20 s",
        "weights": "version 200 · sha256 ab12cd34ef56",
    }
    assert summary_rows({"status": "failed", "eval": None, "idle": {"learner": None}}) == [("status", "failed")]


def test_sparklines_average_into_their_width() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 2, 9, 11], 2) == "▁█"
    assert sparkline([3, 3, 3], 8) == sparkline([3, 3.01, 3], 8) == "▁▁▁"  # noise is not news
    assert sparkline([float("nan"), 1, float("inf"), 2], 8) == "▁█"
    assert sparkline([], 8) == "" and sparkline([float("nan")], 8) == ""


def rendered(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(view.render())
    return console.export_text()


def test_the_live_view_shows_phase_then_progress_then_numbers() -> None:
    clock = Clock()
    view = LiveView("arithmetic", Console(file=io.StringIO(), width=100), clock, animate=False)
    view.phase("starting Ray")
    assert "starting Ray" in rendered(view)
    view.progress("warm start", 100, 300, "loss 0.41")
    clock.now += 10.0
    view.progress("warm start", 200, 300, "loss 0.38")
    assert all(text in rendered(view) for text in ("warm start 200/300", "loss 0.38", "10 s left"))
    view.phase("evaluation before RL")
    assert "evaluation before RL" in rendered(view) and "warm start" not in rendered(view)
    view.evaluation(0, {"accuracy": 0.552})
    for update in range(1, 5):
        clock.now += 1.0
        view.update(update, 10, {**METRICS, "reward/mean": float(update)}, {"rollout": 2, "learner": 1})
    text = rendered(view)
    expected = (
        "arithmetic",
        "14 s",
        "update 4/10",
        "6 s left",
        "0.552",
        "4.000",
        "▁▃▆█",
        "1.1 (max 2)",
        "62 %",
        "rollout 2",
    )
    assert [part for part in expected if part not in text] == []
    assert "learner waiting 62 % on rollout" in text and "loss" not in text


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_the_live_view_fits_its_terminal(width: int) -> None:
    view = LiveView("arithmetic", Console(file=io.StringIO(), width=width), Clock(), animate=False)
    view.evaluation(0, {"accuracy": 0.552})
    for reward in range(30):
        view.update(1, 10, {**METRICS, "reward/mean": float(reward), "policy/entropy": 0.4}, {"rollout": 2, "learn": 1})
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(view.render())
    text = console.export_text()
    assert "…" not in text and "1.1 (max 2)" in text and "learner waiting 62 % on rollout" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_live_view_survives_numbers_that_are_not_finite() -> None:
    view = LiveView("x", Console(file=io.StringIO(), width=60), Clock(), animate=False)
    view.update(1, 10, {"reward/mean": float("nan"), "idle/learner": float("nan")}, {})
    assert "nan" in rendered(view)


def test_a_drawing_live_view_gives_the_terminal_back_and_prints_the_summary() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    view = LiveView("arithmetic", console)
    view.update(1, 10, METRICS, {"rollout": 1})
    view.summary(SUMMARY)
    view.close()
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # cursor hidden, then shown
    assert "0.552 → 0.913" in out.getvalue()


def build(mode: str, console: Console) -> object:
    return make_view(mode, name="a", run_mode="async", max_staleness=2, seed=0, console=console)


def test_auto_is_live_on_a_terminal_and_plain_elsewhere() -> None:
    terminal = build("auto", Console(file=io.StringIO(), force_terminal=True))
    assert isinstance(terminal, LiveView)
    terminal.close()
    pipe = Console(file=io.StringIO(), force_terminal=False)
    assert isinstance(build("auto", pipe), PlainView)
    assert isinstance(build("quiet", pipe), QuietView)


def test_an_unknown_view_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"logging.view is 'loud'; it must be one of auto, live, plain, quiet"):
        build("loud", Console(file=io.StringIO()))


def test_a_quiet_view_says_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    errors = io.StringIO()
    view = QuietView(errors)
    view.phase("x")
    view.update(1, 1, METRICS, {})
    view.evaluation(1, {"accuracy": 0.5})
    view.summary(SUMMARY)
    view.warning("disk is full")
    assert errors.getvalue() == "warning: disk is full\n" and capsys.readouterr().out == ""


def test_a_reader_that_is_gone_does_not_end_the_run():
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    view = PlainView(Gone())
    view.phase("streaming")
    view.evaluation(3, {"accuracy": 0.5})
    view.close()

"""What the benchmarks of decision agents compute from what they measured."""

import argparse
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tests.bench.frames import in_turns, summary
from tests.bench.intrinsic import table
from tests.bench.peers import window as windows
from tests.bench.peers.environments import make
from tests.bench.scale_out import inclusive
from tests.bench.soak import slope


def line(frames_per_s, frames_per_cpu_s):
    return {"frames_per_s": frames_per_s, "frames_per_cpu_s": frames_per_cpu_s}


def test_a_ratio_is_that_of_medians_over_rounds():
    rounds = [
        {"headrace": line(10, 1), "peer": line(4, 2)},
        {"headrace": line(30, 3), "peer": line(5, 2)},
        {"headrace": line(20, 2), "peer": line(90, 2)},
    ]
    assert summary(rounds)["ratio"] == {"headrace / peer": line(4.0, 1.0)}


def test_ours_and_peers_are_measured_in_turns():
    assert list(in_turns({"a": None, "b": None, "c": None}, {"p": None})) == ["a", "p", "b", "c"]


def test_a_table_shows_mean_and_range_and_a_dash_where_nothing_is_known():
    known = {"reward": "rnd", "success": 0.0, "labels": None, "heldout_accuracy": None, "frames_per_s": 10}
    rows = [row.split() for row in table([known, {**known, "success": 1.0}]).splitlines()]
    assert rows[1] == ["rnd", "2", "0.5", "(0", "to", "1)", "-", "-", "10", "(10", "to", "10)"]


def test_a_window_opens_after_the_warm_up_and_counts_only_what_is_inside(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(windows.time, "perf_counter", lambda: clock.now)
    window = windows.Window("peer", argparse.Namespace(env="cartpole", workers=1, warm_up=10.0, seconds=20.0))
    seen = []
    for now, frames in [(0, 0), (5, 100), (14, 900), (15, 1000), (34, 2000), (36, 3100)]:
        clock.now = float(now)
        seen.append(window.closed(frames))
    assert seen == [False] * 5 + [True]
    window._marks = [(*mark[:2], cpu) for mark, cpu in zip(window._marks, (1.0, 8.0), strict=True)]
    window.report()
    assert '"frames_per_s": 100.0, "cpu_s": 7.0, "frames_per_cpu_s": 300.0, "window_s": 21.0' in capsys.readouterr().out


def test_cpu_of_descendants_is_counted():
    child = subprocess.Popen([sys.executable, "-c", "x = 0\nwhile True: x += 1"])
    try:
        deadline = time.monotonic() + 60
        while sum(psutil.Process(child.pid).cpu_times()[:2]) < 0.2:
            assert time.monotonic() < deadline, "the child got no CPU within 60 s"
            time.sleep(0.01)
        own = sum(psutil.Process().cpu_times()[:2])
        assert sum(windows.tree_cpu_s(psutil.Process()).values()) >= own + 0.2
    finally:
        child.kill()
        child.wait(10)


def test_the_view_of_minigrid_is_its_image_divided_by_ten():
    environment = make("minigrid")
    vector, _ = environment.reset(seed=3)
    image = environment.unwrapped.gen_obs()["image"]
    np.testing.assert_allclose(vector, image.reshape(-1) / 10, rtol=1e-6)
    environment.close()


def test_the_crop_of_nethack_has_the_hero_in_its_middle():
    environment = make("nle")
    vector, _ = environment.reset(seed=3)
    raw = environment.unwrapped.last_observation
    keys = environment.unwrapped._observation_keys
    stats, glyphs = raw[keys.index("blstats")], raw[keys.index("glyphs")]
    hero = glyphs[int(stats[1]), int(stats[0])]
    assert vector[27:108].reshape(9, 9)[4, 4] == pytest.approx(hero / 5976)
    assert vector.shape == environment.observation_space.shape
    environment.close()


def test_a_soak_tells_growth_from_noise():
    times = np.arange(0.0, 3600.0, 5.0)
    noise = np.random.default_rng(0).normal(0.0, 1.0, len(times))
    grows, still = slope(times, 500.0 + times / 36.0 + noise), slope(times, 500.0 + noise)
    assert grows.per_hour == pytest.approx(100.0, abs=3 * grows.error) and grows.error < 1.0
    assert grows.grows and not still.grows
    assert abs(still.per_hour) < 4 * still.error
    assert not slope(times, 500.0 - times / 36.0).grows
    assert not slope(times, 1e6 + times / 3600.0).grows, "certain, and too little to matter"
    assert not slope([0.0, 1.0], [1.0, 9.0]).grows, "two samples say nothing"


def test_a_profile_counts_each_function_of_a_stack_once():
    assert inclusive("a;b;a 3\na;c 1\n") == {"a": 1.0, "b": 0.75, "c": 0.25}

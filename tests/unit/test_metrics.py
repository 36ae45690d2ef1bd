"""The metrics writer keeps what it was given, through kills, merges and resumes."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from buffers.records.metric_names import METRICS, describe, exported, glossary_markdown, matching
from buffers.records.metrics import MetricsWriter, read_metrics
from configs.errors import DataError
from configs.schema import RunConfig

SPECIFIED = [
    "reward/mean",
    "reward/std",
    "rewards/exact/mean",
    "rewards/exact/invalid",
    "reward/frac_zero_std",
    "eval/addition/accuracy",
    "policy/loss",
    "policy/entropy",
    "policy/kl_ref",
    "policy/ppo_kl",
    "policy/clip_frac",
    "optim/grad_norm",
    "optim/lr",
    "rollout/is_ratio/mean",
    "rollout/mismatch_kl/mean",
    "rollout/ess",
    "rollout/errored",
    "staleness/mean",
    "staleness/max",
    "staleness/dropped",
    "response_length/mean",
    "response_length/clip_ratio",
    "num_turns/mean",
    "time/update",
    "time/wait_for_batch",
    "time/weight_sync",
    "perf/throughput",
    "perf/tokens_per_s",
    "idle/learner",
    "idle/rollout",
]


def writer(folder: Path, tensorboard: bool = False) -> MetricsWriter:
    return MetricsWriter(folder, tensorboard, None, "test", {})


def values(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(row["update"], row["value"]) for row in read_metrics(folder).to_pylist() if row["name"] == name]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "metrics").glob("*.parquet"))


def test_a_call_is_on_disk_before_it_returns(tmp_path: Path) -> None:
    metrics = writer(tmp_path)  # never closed: a killed process does not close either
    metrics.log(1, {"reward/mean": 0.5, "policy/loss": -1.0}, time=100.0)
    metrics.log(2, {"reward/mean": 0.75}, time=101.5)
    rows = read_metrics(tmp_path).to_pylist()
    assert [(r["update"], r["time"], r["name"], r["value"]) for r in rows] == [
        (1, 100.0, "policy/loss", -1.0),
        (1, 100.0, "reward/mean", 0.5),
        (2, 101.5, "reward/mean", 0.75),
    ]


def test_updates_that_come_fast_share_a_file_and_none_is_lost(tmp_path: Path) -> None:
    metrics = writer(tmp_path)
    for update in range(10):
        metrics.log(update, {"a": float(update)}, time=update / 10)
    assert [at for at, _ in values(tmp_path, "a")] == [0, 1, 2, 3, 4, 5]
    assert len(files(tmp_path)) == 2
    metrics.close()
    assert [at for at, _ in values(tmp_path, "a")] == list(range(10))


def test_files_are_merged_and_no_value_is_lost(tmp_path: Path) -> None:
    metrics = writer(tmp_path)
    for update in range(150):
        metrics.log(update, {"a": float(update)}, time=float(update))
    expected = [(update, float(update)) for update in range(150)]
    assert [path.stem for path in files(tmp_path)[:2]] == ["000000000-000000063", "000000064-000000127"]
    assert len(files(tmp_path)) == 2 + 150 - 128
    assert values(tmp_path, "a") == expected
    metrics.close()
    assert len(files(tmp_path)) == 1
    assert values(tmp_path, "a") == expected


def test_parts_that_a_killed_merge_left_behind_are_not_counted_twice(tmp_path: Path) -> None:
    metrics = writer(tmp_path)
    for update in range(5):
        metrics.log(update, {"a": float(update)}, time=float(update))
    shutil.copytree(tmp_path / "metrics", tmp_path / "before")
    metrics.close()
    for part in (tmp_path / "before").iterdir():
        part.rename(tmp_path / "metrics" / part.name)
    resumed = writer(tmp_path)
    resumed.log(5, {"a": 5.0}, time=5.0)
    resumed.close()  # merges the outer files; a row of an inner one would be in there twice
    merged = tmp_path / "metrics" / "000000000-000000005.parquet"
    assert pq.read_table(merged).num_rows == 6
    assert values(tmp_path, "a") == [(update, float(update)) for update in range(6)]


def test_a_resumed_run_replaces_the_updates_that_it_repeats(tmp_path: Path) -> None:
    first = writer(tmp_path)
    for update in (1, 2, 3):
        first.log(update, {"a": float(update), "b": 0.0}, time=0.0)
    first.close()
    second = writer(tmp_path)
    for update in (2, 3):
        second.log(update, {"a": 10.0 * update}, time=float(update))
    assert values(tmp_path, "a") == [(1, 1.0), (2, 20.0), (3, 30.0)]
    assert values(tmp_path, "b") == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_values_that_are_not_finite_are_stored_and_flagged(tmp_path: Path) -> None:
    writer(tmp_path).log(1, {"a": math.nan, "b": math.inf, "c": 1.0}, time=0.0)
    rows = {row["name"]: row for row in read_metrics(tmp_path).to_pylist()}
    assert {name: row["finite"] for name, row in rows.items()} == {"a": False, "b": False, "c": True}
    assert math.isnan(rows["a"]["value"]) and rows["b"]["value"] == math.inf


def test_logging_nothing_writes_nothing(tmp_path: Path) -> None:
    metrics = writer(tmp_path)
    metrics.log(1, {}, time=0.0)
    assert files(tmp_path) == [] and read_metrics(tmp_path).num_rows == 0


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    metrics = writer(tmp_path, tensorboard=True)
    metrics.log(3, {"reward/mean": 0.25}, time=50.0)
    metrics.close()
    events = EventAccumulator(str(tmp_path / "metrics" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value, e.wall_time) for e in events.Scalars("reward/mean")] == [(3, 0.25, 50.0)]


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics does not exist; name a run folder"):
        read_metrics(tmp_path)


def python(code: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{path}:{Path(__file__).parents[2]}"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


USE_WANDB = """
from collections.abc import Mapping
from pathlib import Path
from buffers.records.metrics import MetricsWriter
metrics = MetricsWriter(Path("run"), False, "my-project", "first", {"seed": 3})
metrics.log(7, {"reward/mean": 0.5}, 12.0)
metrics.close()
"""


def test_wandb_without_the_package_names_the_remedy(tmp_path: Path) -> None:
    done = python("import sys; sys.modules['wandb'] = None" + USE_WANDB, tmp_path, tmp_path)
    assert "ConfigError: logging.wandb_project is 'my-project'" in done.stderr
    assert "pip install wandb" in done.stderr
    assert not (tmp_path / "run").exists()


def test_wandb_is_given_project_name_config_and_values(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text(
        "class Run:\n"
        "    def log(self, values, step): print('log', sorted(values.items()), step)\n"
        "    def finish(self): print('finish')\n"
        "def init(project, name, config, dir, resume):\n"
        "    print('init', project, name, config)\n"
        "    return Run()\n"
    )
    done = python(USE_WANDB, tmp_path, tmp_path)
    assert done.stdout.splitlines() == [
        "init my-project first {'seed': 3}",
        "log [('reward/mean', 0.5), ('time', 12.0)] 7",
        "finish",
    ], done.stderr


def test_the_record_modules_import_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = "import sys, buffers.records.report, buffers.records.metrics; print({'torch', 'ray'} & set(sys.modules))"
    assert python(code, tmp_path, tmp_path).stdout == "set()\n"


@pytest.mark.parametrize("name", SPECIFIED)
def test_every_specified_metric_is_in_the_glossary(name: str) -> None:
    metric = describe(name)
    assert metric is not None and metric.meaning and metric.unit and metric.healthy
    assert f"| `{metric.name}` | {metric.meaning} |" in glossary_markdown()


def test_a_placeholder_stands_for_one_segment() -> None:
    logged = [
        "rewards/judge/mean",
        "rewards/a/b/mean",
        "reward/mean",
        "rewards/exact/mean",
        "xrewards/judge/mean",
        "rewards/judge/mean/ema",
    ]
    assert matching("rewards/<component>/mean", logged) == {
        "rewards/exact/mean": "exact",
        "rewards/judge/mean": "judge",
    }
    assert matching("reward/mean", logged) == {"reward/mean": ""}
    assert describe("rewards/judge/mean") is METRICS["rewards/<component>/mean"]
    assert describe("rewards/a/b/mean") is None


def test_monitoring_knows_metrics_by_the_same_names_and_placeholders_as_labels() -> None:
    name, meaning, labels = exported("rewards/judge/mean")
    assert (name, labels) == ("headrace_rewards_mean", {"component": "judge"})
    assert meaning == METRICS["rewards/<component>/mean"].meaning
    assert exported("pool/reward.a.b/queue_p95_s")[::2] == ("headrace_pool_queue_p95_s", {"pool": "reward.a.b"})
    assert exported("my/own-thing") == ("headrace_my_own_thing", "", {})
    names = [exported(name)[0] for name in METRICS]
    assert sorted(set(names)) == sorted(names), "two metrics would be one"
    assert [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_a_writer_passes_metrics_on(tmp_path: Path) -> None:
    class Elsewhere:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def log(self, update: int, metrics: Mapping[str, float], time: float) -> None:
            self.seen.append((update, dict(metrics), time))

        def close(self) -> None:
            self.seen.append("closed")

    elsewhere = Elsewhere()
    metrics = MetricsWriter(tmp_path, False, None, "test", {}, [elsewhere])
    metrics.log(3, {"a": 1.0}, time=5.0)
    metrics.close()
    assert elsewhere.seen == [(3, {"a": 1.0}, 5.0), "closed"]


def test_every_remedy_names_keys_that_exist() -> None:
    sections = {field.name: field.type for field in dataclasses.fields(RunConfig)}
    run = RunConfig()
    for metric in METRICS.values():
        for section, key in re.findall(r"\b([a-z_]+)\.([a-z_]+)", metric.remedy):
            assert section in sections and hasattr(getattr(run, section), key), f"{metric.name}: {section}.{key}"


def test_a_metric_with_a_threshold_has_a_remedy() -> None:
    assert [m.name for m in METRICS.values() if (m.low is not None or m.high is not None) != bool(m.remedy)] == []

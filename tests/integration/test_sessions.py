"""Whole runs with every kind of part: networks, programs, samplers, policies, back ends, ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import launch
from buffers.digest import weights_digest
from buffers.records.audit import audit
from buffers.records.query import query

SMOKE = str(Path(launch.__file__).parent / "configs" / "smoke.yaml")

pytestmark = pytest.mark.integration


def play(folder: Path, *words: str) -> dict[str, Any]:
    """Run the smoke preset, shortened, with changes; check the books and return the summary."""
    shorter = ["warm_start.updates=0", "updates=3", "eval.tasks=0", "logging.report=false", "logging.view=quiet"]
    assert launch.main(["run", SMOKE, "name=run", f"runs_folder={folder}", *shorter, *words]) == 0
    books = audit(folder / "run")
    assert books.balanced, books.problems
    summary: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["policy_version"] == 3
    return summary


LOCAL = "cluster.address=local"


def test_group_rewards_see_whole_groups_and_nothing_fails(tmp_path: Path):
    component = "{target: 'tests.integration.together:ShorterThanSiblings', num_generations: 4}"
    words = (f"rewards.components.shorter.component={component}", "rollout.max_delay_s=0.05", "rollout.workers=2")
    summary = play(tmp_path, LOCAL, *words)
    assert summary["trajectories"]["failed"] == 0
    values = query(tmp_path / "run", "SELECT DISTINCT value FROM scores WHERE component = 'shorter'").to_pylist()
    assert values and {row["value"] for row in values} <= {0.0, 0.25, 0.5, 0.75}


def test_any_hugging_face_model_trains_on_the_fallback_network(tmp_path: Path):
    model = "{model_type: gpt2, n_embd: 32, n_layer: 2, n_head: 2, n_positions: 64}"
    summary = play(tmp_path, LOCAL, f"model.architecture={model}")
    assert summary["trajectories"]["trained"] == 96


def test_two_turns_with_a_calculator_flow_through_the_stream(tmp_path: Path):
    program = "{target: calculator, calls: 1}"
    play(tmp_path, LOCAL, f"rollout.program={program}", "rollout.context_length=48", "learner.micro_batch_tokens=1024")


def test_replayed_groups_are_trained_again_and_the_books_still_balance(tmp_path: Path):
    play(tmp_path, LOCAL, "buffer.sampler={target: replay, times: 2, share: 0.5, max_age: 4}")
    again = query(tmp_path / "run", "SELECT count(*) AS n FROM events WHERE event = 'trained' AND reason = 'replay'")
    assert again.to_pylist()[0]["n"] > 0


@pytest.mark.parametrize("sampler", ["in_order", "prioritised"])
@pytest.mark.parametrize("policy", ["wait", "drop"])
def test_samplers_and_staleness_policies_keep_the_bound(tmp_path: Path, sampler: str, policy: str):
    words = (f"buffer.sampler.target={sampler}", f"buffer.staleness_policy={policy}", "max_staleness=1")
    summary = play(tmp_path, LOCAL, *words)
    assert summary["staleness"]["max"] <= 1


def test_groups_without_spread_are_filtered_and_refilled(tmp_path: Path):
    reward = "rewards.components.correct.component={target: length_penalty, target_tokens: 2}"
    summary = play(tmp_path, LOCAL, "buffer.filters=[{target: zero_variance}]", reward)
    assert summary["trajectories"]["trained"] == 96 and summary["trajectories"]["dropped"] > 0


def test_weights_that_explode_stop_the_run_with_balanced_books(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reward = "rewards.components.correct.component={target: length_penalty, target_tokens: 2}"
    explode = ("learner.learning_rate=1e30", "learner.max_nonfinite_updates=2", "updates=50")
    words = [SMOKE, "name=run", f"runs_folder={tmp_path}", "warm_start.updates=0", "eval.tasks=0", LOCAL, reward]
    assert launch.main(["run", *words, *explode]) == 1
    assert "gradients were not finite in 2 updates in a row" in capsys.readouterr().err
    assert audit(tmp_path / "run").balanced
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_a_checkpoint_is_evaluated_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    play(tmp_path, LOCAL, "eval.tasks=20", "eval.every=0")
    capsys.readouterr()
    assert launch.main(["eval", str(tmp_path / "run"), "--version", "3", "eval.tasks=30", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["version"], result["tasks"], result["failed"]) == (3, 30, 0)
    assert launch.main(["eval", str(tmp_path / "run"), "--version", "2"]) == 2
    assert "versions there: 3" in capsys.readouterr().err


def test_rewards_outside_a_run_ask_the_reference_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    drift = f"{{component: {{target: implicit_prm, model: '{run / 'model'}'}}, weight: 0.0, deadline_s: 60}}"
    play(tmp_path, LOCAL, "warm_start.updates=5", "warm_start.batch_size=32", f"rewards.components.drift={drift}")
    capsys.readouterr()
    assert launch.main(["eval", str(run), "eval.tasks=20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tasks"], result["invalid"]) == (20, 0), "a reward that asks nobody is invalid"
    assert launch.main(["score", str(run), str(tmp_path / "scores"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["status"]
    assert found == {"ok": sum(found.values())}
    of_run = "SELECT trajectory_id, value FROM scores WHERE component = 'drift'"
    before = {row["trajectory_id"]: row["value"] for row in query(run, of_run).to_pylist()}
    rows = [row for path in (tmp_path / "scores").glob("scores-*") for row in pq.read_table(path).to_pylist()]
    after = {row["trajectory_id"]: row["value"] for row in rows if row["component"] == "drift"}
    again = {name: after[name] for name in before}  # what the end of the run overtook has a score now
    assert again == pytest.approx(before, abs=1e-5) and any(before.values()), "the same reference as in the run"
    (run / "reference").rename(run / "elsewhere")
    assert launch.main(["eval", str(run), "eval.tasks=20", "--json"]) == 2
    told = capsys.readouterr().err
    assert "rewards.components.drift asks the policy as it was before its first update" in told
    assert f"{run / 'reference'} is no folder; put the model folder back" in told


def test_an_exported_model_loads_elsewhere_and_is_the_trained_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    summary = play(tmp_path, LOCAL, "rewards.components.correct.component={target: length_penalty, target_tokens: 2}")
    target = tmp_path / "exported"
    assert launch.main(["export", str(tmp_path / "run"), str(target)]) == 0
    model = AutoModelForCausalLM.from_pretrained(target)
    weights = dict(model.named_parameters())
    assert weights_digest({name: weight.detach() for name, weight in weights.items()}) == summary["weights_sha256"]
    assert AutoTokenizer.from_pretrained(target)("12+3=")["input_ids"]
    assert launch.main(["export", str(tmp_path / "run"), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err


ADAPTER_NUMBERS = 8704
"""Of rank 4 on all linear layers of the preset's model."""


@pytest.mark.parametrize(
    ("backend", "more", "numbers"),
    [
        ("object_store", (), None),
        ("collective", ("model.adapter.rank=4", "learner.backend.target=fsdp2"), ADAPTER_NUMBERS),
    ],
)
def test_two_ranks_publish_to_two_workers_on_ray(
    tmp_path: Path, backend: str, more: tuple[str, ...], numbers: int | None
):
    # At staleness 0 nothing can be generated for a version before its weights have arrived.
    words = ("learner.ranks=2", "rollout.workers=2", "warm_start.updates=5", "max_staleness=0")
    summary = play(tmp_path, f"publish.backend={backend}", *words, *more)
    assert summary["publish"]["count"] == 4 and summary["staleness"]["max"] == 0
    assert numbers is None or summary["publish"]["bytes"] == 4 * 4 * numbers
    stamps = query(tmp_path / "run", "SELECT DISTINCT unnest(version_values) AS version FROM trajectories ORDER BY 1")
    # Version 3 ends the run: whether a worker still began something with it is a matter of timing.
    assert stamps.column("version").to_pylist()[:3] == [0, 1, 2]


@pytest.mark.usefixtures("vllm_installed")
def test_vllm_generates_on_ray_takes_every_version_and_opens_checkpoints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    # At staleness 0 nothing can be generated for a version before its weights have arrived.
    summary = play(tmp_path, "engine=vllm", "max_staleness=0", "cluster.progress_deadline_s=600")
    assert summary["trajectories"]["failed"] == 0 and summary["staleness"]["max"] == 0
    stamps = query(tmp_path / "run", "SELECT DISTINCT unnest(version_values) AS version FROM trajectories ORDER BY 1")
    assert stamps.column("version").to_pylist()[:3] == [0, 1, 2]
    assert "EngineCore" in next((tmp_path / "run" / "logs").glob("vllm-*.log")).read_text()
    capfd.readouterr()
    assert launch.main(["eval", str(tmp_path / "run"), "eval.tasks=8", "--json"]) == 0
    output = capfd.readouterr()
    assert json.loads(output.out)["tasks"] == 8 and not output.err

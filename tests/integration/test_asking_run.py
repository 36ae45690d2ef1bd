"""A tiny run whose rewards ask the policy and its reference for log-probabilities, by real engines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import launch
from buffers.records.audit import audit
from buffers.records.query import query
from buffers.scores import Sample, Score
from rewards.base import Component
from rewards.reference import Reference
from tests.integration.played_runs import SMOKE

SCORES = """
SELECT component, s.version, value, s.status, s.detail, len(span_values) AS steps, t.num_sampled,
t.version_values AS stamps, t."group" FROM scores s JOIN trajectories t ON t.id = s.trajectory_id
"""

pytestmark = pytest.mark.integration


@dataclass(frozen=True, kw_only=True)
class Drift(Component):
    """Mean log-ratio of what was sampled: the policy that sampled it to the reference, nats per token."""

    reference: Reference
    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "logprobs", "reference"})

    async def score(self, samples: Sequence[Sample]) -> list[Score]:  # type: ignore[override]
        version, rows = await self.reference.logprobs([sample.tokens for sample in samples])
        ratios = [
            np.asarray(s.logprobs)[-s.num_tokens :] - row[-s.num_tokens :] for s, row in zip(samples, rows, strict=True)
        ]
        return [Score(value=float(ratio.mean()), version=version) for ratio in ratios]


def test_rewards_of_a_run_ask_the_policy_and_its_reference(tmp_path: Path):
    run = tmp_path / "run"
    gain = f"{{target: information_gain, tokenizer: '{run / 'model'}', steps: tokens}}"
    drift = f"{{target: '{__name__}:Drift'}}"
    words = [
        "name=run", f"runs_folder={tmp_path}", "cluster.address=local", "updates=4", "max_staleness=0", "eval.tasks=0",
        "batch.prompts_per_update=4", "buffer.filters=[]", "logging.report=false", "logging.tensorboard=false",
        "warm_start.updates=10", "warm_start.batch_size=32", "learner.learning_rate=0.01", "checkpoint.every=0",
        "learner.advantage={target: process_return}",
        f"rewards.components.gain={{component: {gain}, credit: steps, weight: 0.5, deadline_s: 60}}",
        f"rewards.components.drift={{component: {drift}, weight: 0.0, deadline_s: 60}}",
    ]  # fmt: skip
    sys.modules.setdefault(__name__, sys.modules[Drift.__module__])
    assert launch.main(["run", str(SMOKE), *words]) == 0
    rows = query(run, SCORES).to_pylist()
    gains = [row for row in rows if row["component"] == "gain"]
    assert {row["status"] for row in gains} == {"ok"}, {row["detail"] for row in gains}
    assert all(row["steps"] == row["num_sampled"] - 1 for row in gains), "the outcome judges the last step"
    assert any(row["value"] for row in gains) and all(-1 <= row["value"] <= 1 for row in gains)
    assert len({row["version"] for row in gains}) > 1, "the policy's newest weights say how probable"
    groups: dict[str, set[int]] = {}
    for row in gains:
        groups.setdefault(row["group"], set()).add(row["version"])
    assert {len(found) for found in groups.values()} == {1}, "one version in a group"

    drifts = [row for row in rows if row["component"] == "drift"]
    assert {(row["status"], row["version"]) for row in drifts} == {("ok", 0)}
    first = [row["value"] for row in drifts if set(row["stamps"]) == {0}]
    later = [row["value"] for row in drifts if min(row["stamps"]) >= 3]
    assert first and max(map(abs, first)) < 1e-4, "version 0 is what the warm start left"
    assert later and max(map(abs, later)) > 1e-3
    assert audit(run).balanced, audit(run).problems

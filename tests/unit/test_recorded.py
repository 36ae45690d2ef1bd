"""What a resumed run must share with its beginning, and what may be given anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from configs.recorded import record_config

LANES = ("environment.backend={target: gymnasium, id: CartPole-v1}", "policy={target: mlp, sizes: [64]}")

JUDGED = (
    "rewards.components.judge.component="
    "{target: judge_pointwise, rubric: Right., endpoint: {url: 'http://here:8000/v1', model: m}}",
)


@pytest.mark.parametrize(
    ("begun", "change"),
    [
        ((), "seed=1"),
        ((), "model.adapter.rank=4"),
        (("model.adapter.rank=4",), "model.adapter.alpha=4"),
        (("model.adapter.rank=4",), "model.adapter.targets=[q_proj]"),
        # A lane would be led through its episode in an environment that it is not of.
        (LANES, "environment.backend.id=Acrobot-v1"),
        (LANES, "environment.backend.max_episode_steps=100"),
        (LANES, "environment.lanes=8"),
        (LANES, "environment.fragment_length=8"),
        (LANES, "policy.sizes=[32]"),
        (LANES, "intrinsic=counts"),
        (LANES, "exploration.intrinsic_coefficient=0.5"),
        (LANES, "learner.actor_critic.normalise_returns=true"),
        (JUDGED, "rewards.components.judge.component.endpoint.model=other"),
    ],
)
def test_what_is_sampled_scored_and_learned_stays_as_it_was(begun: tuple[str, ...], change: str, tmp_path: Path):
    record_config(load_config([], list(begun)), tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    wanted = f"{re.escape(change.split('=')[0])} is .*; the run in .* was begun with .* learns on as it began"
    with pytest.raises(ConfigError, match=wanted):
        record_config(load_config([], [*begun, change]), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("begun", "change"),
    [
        ((), "updates=1000"),
        ((), "publish.backend=object_store"),
        ((), "rollout.workers=3"),
        ((), "rollout.placement.strategy=spread"),
        ((), "rollout.scaling={min: 1, max: 4}"),
        (LANES, "rollout.inference.actors=2"),
        (LANES, "environment.halves=2"),
        (LANES, "environment.step_deadline_s=5"),
        (LANES, "environment.eval_episodes=3"),
        (LANES, "exploration.annotation.budget=100"),
        (LANES, "exploration.annotation.annotators=2"),
        (JUDGED, "rewards.components.judge.component.endpoint.url=http://elsewhere:8000/v1"),
    ],
)
def test_who_does_it_by_when_and_for_how_much_may_change(begun: tuple[str, ...], change: str, tmp_path: Path):
    record_config(load_config([], list(begun)), tmp_path)
    changed = load_config([], [*begun, change])
    record_config(changed, tmp_path)
    assert load_config([tmp_path / "config.yaml"], []) == changed

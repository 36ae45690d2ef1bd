"""Rewards that ask the reference policy: one folder, one version, opened where it is asked."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rewards
from buffers.scores import Sample
from configs.errors import ConfigError, DataError
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig
from launch import make_parts
from rewards.pools import pools, server
from rewards.process.hosted import HostedModel
from rewards.reference import Reference
from tests.unit.engine_models import folder

ROOT = Path(rewards.__file__).parents[1]
SEQUENCES = [[3, 5, 7, 9], [4, 4]]
ANSWER = Sample(id="a", group="g", prompt="", completion="", tokens=(3, 5, 7, 9), num_tokens=3)


def implicit(given_one: Reference | None, **section: Any) -> Any:
    part = RewardComponentConfig(component={"target": "implicit_prm", "model": folder(seed=2), **section})
    given = {} if given_one is None else {"reference": given_one}
    return rewards.build_component(part, "implicit", **given)


async def test_the_reference_says_what_the_model_of_its_folder_says_and_is_version_0():
    version, rows = await Reference(Path(folder())).logprobs(SEQUENCES)
    assert version == 0
    for row, expected in zip(rows, HostedModel(folder()).logprobs(SEQUENCES), strict=True):
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-6)


def test_an_implicit_reward_takes_the_run_s_reference_where_it_names_none():
    (own,) = implicit(Reference(Path(folder()))).score([ANSWER])
    (named,) = implicit(Reference(Path(folder(seed=3))), reference=folder()).score([ANSWER])
    assert own.value == named.value != 0.0
    (same,) = implicit(Reference(Path(folder(seed=2)))).score([ANSWER])
    assert same.value == 0.0, "a model is no likelier than itself"


async def test_without_a_run_there_is_no_reference_and_the_message_says_what_to_do():
    with pytest.raises(DataError, match="no reference policy here; score a run folder"):
        await Reference(None).logprobs(SEQUENCES)
    with pytest.raises(DataError, match="no reference policy here"):
        implicit(None).score([ANSWER])


def test_a_component_that_needs_the_reference_cannot_be_given_another():
    part = RewardComponentConfig(component={"target": "prime", "after": ["right"], "reference": folder()})
    with pytest.raises(ConfigError, match="reference is not an argument"):
        rewards.build_server(part, name="prime", rng=random.Random(0))


@pytest.mark.parametrize(("updates", "expected"), [(1, "reference"), (0, "model")])
def test_replicas_are_told_where_the_run_keeps_it(tmp_path: Path, updates: int, expected: str):
    config = RunConfig(rewards=RewardsConfig(components={"a": RewardComponentConfig(component="exact_match")}))
    config.warm_start.updates = updates
    (pool,) = pools(config, tmp_path, make_parts(config))
    assert pool.factory.arguments[-1] == tmp_path / expected


def config(**component: Any) -> RunConfig:
    part = RewardComponentConfig(component={"target": "implicit_prm", "model": "m", **component})
    return RunConfig(rewards=RewardsConfig(components={"drift": part}))


@pytest.mark.parametrize(("given_one", "why"), [(None, "no run is given"), ("gone", "gone is no folder")])
def test_outside_a_run_a_missing_reference_is_refused_before_anything_is_scored(
    tmp_path: Path, given_one: str | None, why: str
):
    with pytest.raises(DataError, match=rf"components.drift asks the policy as it was .* and .*{why}"):
        server(config(), "drift", tmp_path / given_one if given_one else None)
    assert server(config(), "drift", Path(folder())).arguments[-1] == Path(folder())


def test_who_names_a_reference_of_its_own_needs_none_of_a_run():
    assert server(config(reference=folder()), "drift").arguments[-1] is None


def test_a_replica_that_hosts_no_model_does_not_import_what_models_need():
    code = "import sys, rewards.member; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", "each replica would take seconds of processor and 300 MB more to start"

"""Does a cluster have room? Hand-made clusters, and a comparison with trying every placement there is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launch
from configs.demands import demands
from configs.errors import ConfigError
from configs.load import load_config
from configs.placement import Demand, PlacementConfig, shortfall

CONFIGS = Path(launch.__file__).parent / "configs"
STRATEGIES = ("any", "pack", "spread", "strict_pack", "strict_spread")


def demand(members: int = 1, strategy: str = "any", pool: str = "rollout", **each: float) -> Demand:
    return Demand(pool=pool, members=members, each=each, strategy=strategy)


def test_what_fits_is_not_spoken_of():
    wanted = [demand(2, CPU=2, GPU=0.5), demand(1, pool="learner", CPU=1, GPU=1)]
    assert shortfall(wanted, [{"CPU": 5, "GPU": 2}]) == []


def test_each_resource_that_is_short_has_its_sum_and_by_how_much():
    wanted = [demand(4, CPU=1, GPU=1), demand(2, pool="learner", GPU=1), demand(1, pool="reward.x", judges=1)]
    assert shortfall(wanted, [{"CPU": 8, "GPU": 2}, {"GPU": 2}]) == [
        "GPU: rollout 4 x 1 + learner 2 x 1 = 6, there are 4: short of 2",
        "judges: reward.x 1 x 1 = 1, there are 0: short of 1",
    ]


def test_a_member_is_not_cut_in_two():
    said = shortfall([demand(3, CPU=2)], [{"CPU": 3}, {"CPU": 3}])
    assert said == ["rollout: 3 members of 2 CPU want nodes that hold a member whole; room for 2: short of 1"]
    assert shortfall([demand(1, CPU=1, GPU=1)], [{"CPU": 4}, {"GPU": 4}])[0].endswith("room for 0: short of 1")


def test_strict_strategies_count_nodes():
    nodes = [{"CPU": 2}, {"CPU": 2}]
    assert shortfall([demand(3, "spread", CPU=1)], nodes) == shortfall([demand(3, "pack", CPU=1)], nodes) == []
    assert shortfall([demand(3, "strict_spread", CPU=1)], nodes) == [
        "rollout: 3 members of 1 CPU want nodes of their own; room for 2: short of 1"
    ]
    assert "room for 1" in shortfall([demand(2, "strict_spread", CPU=1)], [{"CPU": 2}, {"GPU": 2}])[0]
    assert shortfall([demand(3, "strict_pack", CPU=1)], nodes) == [
        "rollout: 3 members of 1 CPU want one node; room for 2: short of 1"
    ]


def test_tenths_of_a_gpu_add_up_in_spite_of_rounding():
    assert 3 * 0.1 > 0.3 and int(0.3 / 0.1) == 2, "they do not by themselves"
    assert shortfall([demand(3, "strict_pack", GPU=0.1)], [{"GPU": 0.3}]) == []
    assert shortfall([demand(1, GPU=0.1), demand(2, pool="other", GPU=0.1)], [{"GPU": 0.3}]) == []


amounts = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])


@given(
    nodes=st.lists(st.fixed_dictionaries({"CPU": amounts, "GPU": amounts}), max_size=3),
    each=st.fixed_dictionaries({"CPU": amounts, "GPU": amounts}),
    members=st.integers(1, 4),
    strategy=st.sampled_from(STRATEGIES),
)
@settings(max_examples=300, deadline=None)
def test_one_pool_is_refused_exactly_when_no_placement_of_its_members_exists(nodes, each, members, strategy):
    each = {name: amount for name, amount in each.items() if amount}
    said = shortfall([demand(members, strategy, **each)], nodes)
    assert bool(said) == (bool(each) and not placeable(nodes, each, members, strategy))


def placeable(nodes, each, members, strategy) -> bool:
    """Try every assignment of members to nodes."""
    for where in itertools.product(range(len(nodes)), repeat=members):
        used = set(where)
        if (strategy == "strict_pack" and len(used) > 1) or (strategy == "strict_spread" and len(used) < members):
            continue
        if all(where.count(n) * amount <= nodes[n][name] for n in used for name, amount in each.items()):
            return True
    return False


def test_demands_are_those_of_the_configuration_and_pools_without_any_are_left_out():
    config = load_config([CONFIGS / "smoke.yaml"], [
        "rollout.workers=3", "rollout.num_gpus=0.5", "rollout.placement={strategy: spread, resources: {fast: 1}}",
        "learner.ranks=2", "rewards.components.correct.replicas=2",
    ])  # fmt: skip
    assert demands(config) == [
        demand(2, "strict_pack", "learner", CPU=1.0),
        demand(3, "spread", "rollout", CPU=1.0, GPU=0.5, fast=1.0),
    ]


def test_members_are_made_as_the_demands_say(tmp_path: Path):
    words = [
        "rollout.workers=3", "rollout.num_gpus=0.5", "rollout.placement.strategy=spread", "learner.ranks=2",
        "rewards.components.correct={component: {target: exact_match}, replicas: 2, num_gpus: 0.25, num_cpus: 1, "
        "placement: {strategy: pack, resources: {judges: 1}}}",
    ]  # fmt: skip
    config = load_config([CONFIGS / "smoke.yaml"], words)

    class Folder:
        path, epoch = tmp_path, 1

    plan = launch.assemble(config, Folder())
    made = [plan.learners, *plan.rewards, *plan.workers([])]
    assert [spec.demand for spec, _ in made] == demands(config)
    assert [spec.together for spec, _ in made] == [members for _, members in made] == [2, 2, 3]


@pytest.mark.parametrize("preset", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_the_members_of_every_preset_are_made_as_the_demands_say(preset: str, tmp_path: Path):
    config = load_config([CONFIGS / preset], [])

    class Folder:
        path, epoch = tmp_path, 1

    plan = launch.assemble(config, Folder())
    made = [plan.learners, *plan.rewards, *plan.workers([])]
    assert [spec.demand for spec, _ in made if spec.demand.each] == demands(config)


def test_wrong_placements_are_named():
    with pytest.raises(ConfigError, match=r"placement.strategy is 'apart'; it must be one of any, pack"):
        PlacementConfig(strategy="apart")
    with pytest.raises(ConfigError, match=r"num_gpus of rollout is 1\.5; it must be at most 1, or a whole number"):
        load_config([CONFIGS / "smoke.yaml"], ["rollout.num_gpus=1.5"])


def test_check_fails_with_the_shortfall_before_anything_starts(capsys: pytest.CaptureFixture[str]):
    words = ["check", str(CONFIGS / "smoke.yaml"), "cluster.num_cpus=8", "rollout.placement.resources={fast: 2}"]
    assert launch.main([*words, "rollout.workers=10"]) == 2
    shown = capsys.readouterr().out
    assert "FAIL placement      CPU: learner 1 x 1 + rollout 10 x 1 = 11, there are 8: short of 3" in shown
    assert "FAIL placement      fast: rollout 10 x 2 = 20, there are 0: short of 20" in shown
    assert launch.main([*words[:-1], "rollout.workers=7"]) == 0

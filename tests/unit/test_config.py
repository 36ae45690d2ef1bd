"""Reading, refusing and writing configurations."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.foreign import FOREIGN, translate
from configs.keys import known_keys
from configs.load import dump_config, load_config, presets
from configs.rules import OUTCOME_ADVANTAGES, PROCESS_ADVANTAGES
from configs.schema import RunConfig
from learners.advantages import ADVANTAGES


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes a YAML file and returns its path."""

    def write_yaml(text: str, name: str = "a.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_yaml


def test_nothing_given_is_the_schema() -> None:
    assert load_config([], []) == RunConfig()


def test_later_files_win_and_overrides_win_over_all(write) -> None:
    first = write("updates: 1\nseed: 1\nlearner: {beta: 0.1, ranks: 2}")
    second = write("seed: 2\nlearner:\n  beta: 0.2\n", "b.yaml")
    config = load_config([first, second], ["learner.beta=0.3", "name=x", "learner.beta=0.4"])
    assert (config.updates, config.seed, config.learner.ranks) == (1, 2, 2)
    assert (config.learner.beta, config.name) == (0.4, "x")


def test_an_empty_file_changes_nothing(write) -> None:
    assert load_config([write(""), write("# only a comment\n", "b.yaml")], []) == RunConfig()


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("learner.learning_rate=1e-4", 1e-4),
        ("rollout.stop=[a, b]", ["a", "b"]),
        ("logging.wandb_project=null", None),
        ("name=3", "3"),
        ("resume=true", True),
        ("max_staleness=${batch.num_generations}", 8),
        ("learner.loss.epsilon=0.2", 0.2),
        ("rewards.components.right.component.target=exact_match", "exact_match"),
    ],
)
def test_an_override_is_read_as_yaml_of_the_settings_type(override: str, value: object) -> None:
    found: object = load_config([], [override])
    for key in override.partition("=")[0].split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == value
    assert type(found) is type(value)


# Components are replaced with their target, and merged without


def test_another_target_discards_the_arguments_of_the_old_one(write) -> None:
    preset = write("rollout: {program: {target: calculator, open: '['}}")
    kept = load_config([preset], ["rollout.program.calls=2"])
    replaced = load_config([preset], ["rollout.program.target=single_turn"])
    assert kept.rollout.program == {"target": "calculator", "open": "[", "calls": 2}
    assert replaced.rollout.program == {"target": "single_turn"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_target_and_arguments_may_be_overridden_in_any_order(order: tuple[int, int]) -> None:
    texts = ["learner.loss.target=mine:Loss", "learner.loss.epsilon=0.5"]
    config = load_config([], [texts[n] for n in order])
    assert config.learner.loss == {"target": "mine:Loss", "epsilon": 0.5}


def test_an_empty_mapping_empties_a_component_and_leaves_a_section(write) -> None:
    preset = write("rewards: {components: {a: {component: {target: x}}}}\nlearner: {beta: 0.5}")
    config = load_config([preset, write("rewards: {components: {}}\nlearner: {}", "b.yaml")], [])
    assert config.rewards.components == {}
    assert config.learner.beta == 0.5


def test_a_model_folder_takes_the_place_of_the_default_architecture_only(write) -> None:
    assert load_config([], ["model.path=somewhere"]).model.architecture == {}
    with pytest.raises(ConfigError, match=r"model.path is 'somewhere'"):
        load_config([write("model: {architecture: {model_type: llama}}")], ["model.path=somewhere"])


# Refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner:\n  learning_rat: 3", r"a.yaml:2: learner.learning_rat is not a setting; .*'learner.learning_rate'"),
        ("updats: 3", r"a.yaml:1: updats is not a setting; did you mean 'updates'"),
        ("learning_rate: 3", r"did you mean 'learner.learning_rate' or 'warm_start.learning_rate'"),
        ("learner: {num_generation: 3}", r"did you mean 'batch.num_generations'"),
        ("lerner: {ranks: 2}", r"lerner is not a setting; did you mean 'learner'"),
        ("learner: {zzz: 3}", r"learner.zzz is not a setting; known in learner: activation_checkpointing"),
        ("rewards:\n  components:\n    a:\n      wieght: 2", r"a.yaml:4: rewards.components.a.wieght .*a.weight'"),
        ("updates: x", r"a.yaml:1: updates is 'x'; it must be a whole number"),
        ("updates: 2.5", r"updates is 2.5; it must be a whole number"),
        ("cluster: {num_cpus: x}", r"cluster.num_cpus is 'x'; it must be a whole number"),
        ("learner: {beta: [1]}", r"learner.beta is \[1\]; it must be a number"),
        ("resume: perhaps", r"resume is 'perhaps'; it must be true or false"),
        ("name:", r"name is None; it must be text"),
        ("learner: 3", r"learner is 3; it must be a section; set keys inside it"),
        ("learner:", r"learner is None; it must be a section"),
        ("learner: {loss: mine}", r"learner.loss is 'mine'; it must be a section; write learner.loss: {target"),
        ("rewards: {components: 3}", r"rewards.components is 3; .*rewards.components.mine"),
        ("rollout: {stop: abc}", r"rollout.stop"),
        ("updates: ???", r"a.yaml:1: updates is '\?\?\?'; it must have a value"),
        ("updates: ${nowhere}", r"updates: Interpolation key 'nowhere' not found"),
        ("updates: 3\n  seed: 4", r"a.yaml:2: malformed YAML"),
        ("updates: [1", r"a.yaml:1: malformed YAML"),
        ("updates: 3\n\tseed: 4", r"a.yaml:2: malformed YAML"),
        ("updates: 1\nupdates: 2", r"a.yaml:2: malformed YAML: found duplicate key updates"),
        ("- 1", r"a.yaml: the file must be a mapping"),
        ("just words", r"a.yaml: the file must be a mapping"),
        ("3: 4", r"3 is not a setting"),
    ],
)
def test_a_wrong_file_names_place_and_remedy(text: str, message: str, write) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([write(text)], [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+updates=3", r"override '\+updates=3': prefixes are not used; write a.b=value"),
        ("--updates=3", r"prefixes are not used"),
        ("updates", r"override 'updates': it must have the form a.b=value"),
        ("=3", r"must have the form a.b=value"),
        ("buffer.filters[0].x=3", r"must have the form a.b=value"),
        ("updates=[1", r"override 'updates=\[1': .*quote the value"),
        ("updates=", r"override 'updates=': updates is None; it must be a whole number"),
        ("lr=3", r"override 'lr=3': lr is not a setting; here lr is called learner.learning_rate"),
    ],
)
def test_a_wrong_override_is_quoted(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], [override])


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("lr", "learner.learning_rate"),
        ("actor_rollout_ref.rollout.n", "batch.num_generations"),
        ("rollout.n", "batch.num_generations"),
        ("n_samples_per_prompt", "batch.num_generations"),
        ("group_size", "batch.num_generations"),
        ("rollout.max_new_tokens", "rollout.max_completion_length"),
        ("max_off_policy_steps", "max_staleness"),
        ("max_steps", "updates"),
        ("actor.ppo_mini_batch_size", "learner.minibatches"),
        ("algorithm.kl_ctrl.kl_coef", "learner.beta"),
        ("learner.clip_eps", "learner.loss.epsilon"),
    ],
)
def test_another_trainers_key_names_ours(key: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf"here {key} is called {ours}$"):
        load_config([], [f"{key}=3"])


def test_every_foreign_key_leads_to_a_key_that_exists() -> None:
    # Arguments of components are known to their component, not to the schema.
    targets = {ours for ours in FOREIGN.values() if not ours.startswith("learner.loss.")}
    assert targets <= set(known_keys())


def test_no_key_of_ours_is_taken_for_a_foreign_one() -> None:
    assert [key for key in known_keys() if translate(key)] == []


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml does not exist"):
        load_config([tmp_path / "nowhere.yaml"], [])
    with pytest.raises(ConfigError, match=r"cannot be read"):
        load_config([tmp_path], [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch.num_generations=1"], r"batch.num_generations is 1; .*group_normalised"),
        (["learner.minibatches=600"], r"learner.minibatches is 600; .*the 512 per update"),
        (["learner.minibatches=300", "learner.ranks=2"], r"learner.minibatches is 300"),
        (["cluster.address=local", "learner.ranks=2"], r"learner.ranks is 2; .*each in a process of its own"),
        (["learner.minibatches=0"], r"learner.minibatches is 0"),
        (["learner.micro_batch_tokens=63"], r"learner.micro_batch_tokens is 63; .*rollout.context_length=64"),
        (["rollout.temperature=0"], r"rollout.temperature is 0.0; it must be > 0"),
        (["rollout.prefill_chunk=65"], r"rollout.prefill_chunk is 65"),
        (["learner.warmup_updates=201"], r"learner.warmup_updates is 201; .*updates=200"),
        (["cluster.heartbeat_s=60"], r"cluster.heartbeat_s is 60.0; .*heartbeat_deadline_s=60"),
        (["mode=sync"], r"max_staleness is 2; it must be 0 when mode=sync"),
        (["learner.beta=-1"], r"learner.beta is -1.0; it must be >= 0"),
        (["eval.component=corect"], r"eval.component is 'corect'; it must name one of rewards.components"),
    ],
)
def test_an_impossible_value_or_combination_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch.num_generations=1", "learner.advantage.target=mine:Own"],
        ["batch.num_generations=2"],
        ["learner.minibatches=512"],
        ["learner.micro_batch_tokens=64"],
        ["learner.warmup_updates=200"],
        ["mode=sync", "max_staleness=0"],
    ],
)
def test_the_edge_of_a_rule_is_allowed(overrides: list[str]) -> None:
    load_config([], overrides)


def test_the_rules_on_estimators_name_all_that_exist() -> None:
    assert {*OUTCOME_ADVANTAGES, *PROCESS_ADVANTAGES} == set(ADVANTAGES)


# Writing


STRINGS = st.text(max_size=12) | st.sampled_from(
    ["1e-3", "no", "null", "${x}", "\\${x}", "\\", "a: b", "2026-01-01", "\x85"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), VALUES, max_size=4), STRINGS)
@settings(max_examples=20, deadline=None)
def test_a_written_configuration_reads_back_equal(tmp_path_factory, arguments: dict[str, object], stop: str) -> None:
    config = RunConfig()
    config.tasks.train = arguments
    config.rollout.stop = [stop]
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    dump_config(config, path)
    assert load_config([path], []) == config


def test_a_configuration_with_a_model_folder_and_rewards_reads_back_equal(tmp_path: Path) -> None:
    overrides = ["model.path=m", "rewards.components.a.component.target=x", "learner.loss={target: y, z: 1e-9}"]
    config = load_config([], overrides)
    dump_config(config, tmp_path / "config.yaml")
    again = load_config([tmp_path / "config.yaml"], [])
    assert again == config
    assert dataclasses.asdict(again) == dataclasses.asdict(config)


def test_every_preset_loads_and_says_what_it_is_for() -> None:
    folder = Path(__file__).parents[2] / "configs"
    for name, comment in presets():
        load_config([folder / f"{name}.yaml"], [])
        assert len(comment) > 20, name

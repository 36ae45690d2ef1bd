"""Adapters: what is trained, what is published, and what engines, checkpoints and other loaders make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_tables import MODEL, model_folder, random_table
from transformers import AutoModelForCausalLM

from actors.engines.factory import torch_engine
from configs.adapter import AdapterConfig
from configs.errors import ConfigError, DataError
from configs.language import WarmStartConfig
from configs.learning import LearnerConfig
from learners.checkpoint import load_checkpoint, save_checkpoint
from learners.host import write_reference
from learners.models.adapter import DOWN, UP, Installer
from learners.models.adapter_folder import whole_weights
from learners.models.load import read_weights
from learners.models.tokenizer import load_tokenizer
from learners.policy_learner import PolicyLearner
from learners.rank import LearnerRank
from learners.warm_start import supervised_items, warm_start

torch.set_num_threads(1)
ADAPTER = AdapterConfig(rank=2, alpha=3.0, targets=["q_proj", "v_proj", "down_proj"])
ADAPTED = replace(MODEL, adapter=ADAPTER)
SEQUENCES = [[2, 3, 4, 5, 6], [7, 8, 9]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def learner(folder):
    def build(model=ADAPTED, **settings) -> PolicyLearner:
        return PolicyLearner(LearnerConfig(**{"learning_rate": 3e-2} | settings), model, folder, total_updates=10)

    return build


def engine_of(folder: Path, model=ADAPTED):
    return torch_engine(folder, model, load_tokenizer(folder), slots=16, context_length=16, prefill_chunk=4)


def hugging_face_logprobs(model) -> list[np.ndarray]:
    """Return [T] nats of each sequence by a transformers model; 0 at the first token."""
    found = []
    for tokens in SEQUENCES:
        with torch.no_grad():
            logp = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        found.append(np.array([0.0, *(float(logp[t - 1, tokens[t]]) for t in range(1, len(tokens)))]))
    return found


def peft_merged(base: Path, folder: Path):
    """Return the base with a folder's adapter merged into it, by peft's own code."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval()


@pytest.mark.parametrize("network", ["native", "transformers"])
def test_an_engine_that_took_an_adapter_is_the_model_that_peft_merges(network, learner, folder, tmp_path):
    model = replace(ADAPTED, network=network)
    policy = learner(model)
    for seed in range(3):
        policy.update(random_table(seed))
    engine = engine_of(folder, model)
    before = [scored.logprobs for scored in engine.score(SEQUENCES)]
    engine.load_weights(3, policy.weights())
    saved = save_checkpoint(tmp_path, policy.state(), folder, adapter=ADAPTER)
    wanted = hugging_face_logprobs(peft_merged(folder, saved.path))
    for scored, want, old in zip(engine.score(SEQUENCES), wanted, before, strict=True):
        np.testing.assert_allclose(scored.logprobs, want, atol=1e-5)
        assert np.abs(old - want).max() > 1e-2, "three updates moved nothing: the test proved nothing"


def test_only_the_adapter_is_trained_published_and_hashed(learner, folder):
    policy, base = learner(), read_weights(folder)
    names = {f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn.q_proj", "self_attn.v_proj")}
    names |= {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}
    assert policy.weights().keys() == {name + end for name in names for end in (DOWN, UP)}
    assert all(w.dtype == torch.float32 for w in policy.weights().values())
    before, first = policy.digest(), {n: w.clone() for n, w in policy.weights().items()}
    policy.update(random_table()), policy.update(random_table(1))
    assert policy.digest() != before
    assert all(not torch.equal(w, first[n]) for n, w in policy.weights().items())
    for name, parameter in policy.network.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name
    # 2 * 2 layers of (q: 16 + 16, v: 16 + 8, down: 24 + 16) float32, each tensor at a multiple of 64 bytes.
    assert sum(w.numel() for w in policy.weights().values()) == 2 * 2 * (32 + 24 + 40)
    assert policy.layout.size < learner(MODEL).layout.size / 4


def test_the_first_version_is_the_base_and_versions_do_not_add_up(learner, folder):
    policy = learner()
    engine, fresh = engine_of(folder), engine_of(folder)
    base = [scored.logprobs for scored in engine.score(SEQUENCES)]
    engine.load_weights(0, policy.weights())
    for scored, want in zip(engine.score(SEQUENCES), base, strict=True):
        np.testing.assert_array_equal(scored.logprobs, want)
    for version in (1, 2, 3):
        policy.update(random_table(version))
        engine.load_weights(version, policy.weights())
    fresh.load_weights(3, policy.weights())
    for name, weight in engine._network.named_weights().items():
        assert torch.equal(weight, fresh._network.named_weights()[name])


def test_the_engine_samples_by_the_policy_that_is_trained(learner, folder):
    policy = learner()
    policy.update(random_table()), policy.update(random_table(1))
    engine = engine_of(folder)
    engine.load_weights(2, policy.weights())
    for tokens, scored in zip(SEQUENCES, engine.score(SEQUENCES), strict=True):
        with torch.no_grad():
            hidden = policy.network.forward(torch.tensor([tokens]), torch.arange(len(tokens))[None], None)
            logp = policy.network.logits(hidden[0]).log_softmax(-1)
        learned = [0.0, *(float(logp[t - 1, tokens[t]]) for t in range(1, len(tokens)))]
        np.testing.assert_allclose(scored.logprobs, learned, atol=1e-5)


def test_the_reference_has_an_adapter_of_its_own_on_the_same_base(learner):
    policy = learner(beta=0.1)
    assert policy.update(random_table())["policy/kl_ref"] == pytest.approx(0, abs=1e-9)
    assert policy.update(random_table())["policy/kl_ref"] > 1e-4
    policy.set_reference()
    assert policy.update(random_table(1))["policy/kl_ref"] == pytest.approx(0, abs=1e-9)
    ours, theirs = (dict(n.named_parameters()) for n in (policy.network, policy._reference.network))
    shared = {name for name in ours if ours[name] is theirs[name]}
    assert shared == {name for name, p in ours.items() if not p.requires_grad}


def test_a_checkpoint_holds_the_adapter_and_goes_on_bit_for_bit(learner, folder, tmp_path):
    alone = learner(beta=0.1)
    for seed in range(2):
        alone.update(random_table(seed))
    saved = save_checkpoint(tmp_path, alone.state(), folder, adapter=ADAPTER).path
    assert not (saved / "model.safetensors").exists() and (saved / "adapter_model.safetensors").exists()
    alone.update(random_table(2))
    resumed = learner(beta=0.1)
    resumed.load(load_checkpoint(saved))
    resumed.update(random_table(2))
    assert resumed.digest() == alone.digest() and resumed.version == 3
    with pytest.raises(DataError, match="model differs in"):
        learner(MODEL).load(load_checkpoint(saved))


def test_an_engine_begins_with_the_adapter_of_a_checkpoint(learner, folder, tmp_path):
    policy = learner()
    policy.update(random_table())
    saved = save_checkpoint(tmp_path, policy.state(), folder, adapter=ADAPTER).path
    engine, wanted = engine_of(saved), engine_of(folder)
    wanted.load_weights(1, policy.weights())
    for mine, want in zip(engine.score(SEQUENCES), wanted.score(SEQUENCES), strict=True):
        np.testing.assert_array_equal(mine.logprobs, want.logprobs)
    assert engine.version == -1
    settings = saved / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(folder), "/nowhere"))
    with pytest.raises(DataError, match="an adapter of /nowhere, which is gone; put the model back"):
        engine_of(saved)


async def test_an_adapter_is_not_added_to_a_base_that_has_changed(learner, tmp_path):
    base = model_folder(tmp_path / "model")
    rank = LearnerRank(LearnerConfig(), ADAPTED, base)
    await rank.update(random_table())
    saved = await rank.save(str(tmp_path))
    assert saved is not None and await rank.load(str(saved.path)) == 1
    model_folder(base, seed=1)
    with pytest.raises(DataError, match="holds an adapter of other weights than those in"):
        await rank.load(str(saved.path))
    with pytest.raises(DataError, match="holds an adapter of other weights than those in"):
        engine_of(saved.path)
    await rank.close()


def test_whole_weights_are_what_an_engine_computes_with(learner, folder):
    policy = learner()
    policy.update(random_table())
    engine = engine_of(folder)
    engine.load_weights(1, policy.weights())
    whole = whole_weights(ADAPTED, folder, policy.weights())
    for name, weight in engine._network.named_weights().items():
        assert torch.equal(weight, whole[name]), name


def test_a_warm_start_trains_the_adapter_and_leaves_a_whole_reference_folder(learner, folder, tmp_path):
    policy, losses = learner(), []
    items = supervised_items(load_tokenizer(folder), [(str(a), str(9 - a)) for a in range(10)])
    phase = WarmStartConfig(updates=30, batch_size=10, learning_rate=3e-2)
    warm_start(policy, items, phase, report=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0] - 0.1
    write_reference(tmp_path, ADAPTED, folder, True, policy)
    found = hugging_face_logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "reference").eval())
    engine = engine_of(folder)
    engine.load_weights(0, policy.weights())
    for scored, want in zip(engine.score(SEQUENCES), found, strict=True):
        np.testing.assert_allclose(scored.logprobs, want, atol=1e-5)


def test_factors_are_added_in_float32_and_rounded_once():
    base = torch.randn(4, 3).bfloat16()
    own = {"a.q_proj.weight": base.clone()}
    down, up = torch.randn(2, 3), torch.randn(4, 2)
    Installer(own, AdapterConfig(rank=2, alpha=1.0, targets=["q_proj"])).install(
        1, {"a.q_proj" + DOWN: down, "a.q_proj" + UP: up}
    )
    wanted = (base.double() + 0.5 * up.double() @ down.double()).bfloat16()
    assert torch.equal(own["a.q_proj.weight"], wanted)


def test_a_model_in_bfloat16_has_its_adapter_in_float32(learner, folder):
    model = replace(ADAPTED, dtype="bfloat16")
    policy = learner(model, learning_rate=1e-4)
    for seed in range(2):
        policy.update(random_table(seed))
    weights = policy.weights()
    assert all(w.dtype == torch.float32 for w in weights.values())
    assert any(not torch.equal(w, w.bfloat16().float()) for w in weights.values()), "bfloat16 would have rounded them"
    engine = engine_of(folder, model)
    engine.load_weights(2, weights)
    assert all(w.dtype == torch.bfloat16 for w in engine._network.named_weights().values())


def test_tensors_that_do_not_fit_change_nothing(learner, folder):
    policy, engine = learner(), engine_of(folder)
    before = {n: w.clone() for n, w in engine._network.named_weights().items()}
    policy.update(random_table())
    good = policy.weights()
    name = next(iter(good))
    for bad in (
        {n: w for n, w in good.items() if n != name},
        good | {"model.norm.weight": torch.ones(16)},
        good | {name: torch.ones(1, 1)},
        learner(MODEL).weights(),
    ):
        with pytest.raises(ValueError, match="weights version 1 do not fit the network"):
            engine.load_weights(1, bad)
    assert all(torch.equal(w, before[n]) for n, w in engine._network.named_weights().items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ["q_prj"]}, "has 'q_prj', which is no linear layer of the model; did you mean 'q_proj'"),
        ({"targets": ["norm"]}, "has 'norm', which is no linear layer"),
    ],
)
def test_a_target_that_is_no_linear_layer_is_refused(fields, message, folder):
    model = replace(MODEL, adapter=replace(ADAPTER, **fields))
    with pytest.raises(ConfigError, match=message):
        PolicyLearner(LearnerConfig(), model, folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": -1}, "model.adapter.rank is -1; it must be >= 0"),
        ({"alpha": 0.0}, "model.adapter.alpha is 0.0; it must be > 0"),
        ({"targets": []}, "it must name a layer"),
        ({"targets": ["q_proj", "lm_head"]}, "leave out embeddings, .*; remove lm_head"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(**fields)

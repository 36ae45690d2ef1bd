"""Networks against Hugging Face: values, gradients, names, masks, packed rows, caches, model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import SIZES, folder, hugging_face, model_config, tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from configs.errors import ConfigError, DataError
from configs.language import ModelConfig
from learners.models.decoder import CausalDecoder
from learners.models.load import create_model_folder, load_network
from learners.models.tokenizer import encode, load_tokenizer
from learners.models.transformers_network import TransformersNetwork

NATIVE = [(kind, tied) for kind in ("llama", "qwen2", "qwen3") for tied in (True, False)]


def load(kind: str = "qwen3", tied: bool = True, network: str = "auto") -> Any:
    torch.set_num_threads(1)
    return load_network(model_config(kind, tied=tied, network=network), folder(kind, tied))


def batch(rows: int = 3, width: int = 11) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(2, 20, (rows, width), generator=torch.Generator().manual_seed(0))
    return tokens, torch.arange(width).expand(rows, -1)


@pytest.mark.parametrize("network", ["auto", "transformers"])
@pytest.mark.parametrize(("kind", "tied"), [*NATIVE, ("gpt2", True)])
def test_logits_names_and_gradients_equal_those_of_hugging_face(kind: str, tied: bool, network: str) -> None:
    ours, theirs = load(kind, tied, network), hugging_face(kind, tied)
    tokens, positions = batch()
    logits, expected = ours.logits(ours(tokens, positions)), theirs(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    reference = dict(theirs.named_parameters())
    assert ours.named_weights().keys() == reference.keys()
    theirs.zero_grad()
    logits.square().mean().backward()
    expected.square().mean().backward()
    for name, weight in ours.named_weights().items():
        torch.testing.assert_close(weight.grad, reference[name].grad, rtol=1e-3, atol=1e-4)


def test_native_state_dict_names_equal_hugging_faces_and_tied_heads_are_absent() -> None:
    assert load("qwen3", False).state_dict().keys() == hugging_face("qwen3", False).state_dict().keys()
    assert load("qwen3", True).state_dict().keys() == hugging_face("qwen3", True).state_dict().keys() - {
        "lm_head.weight"
    }


def test_the_network_is_native_where_it_can_be() -> None:
    assert isinstance(load("llama"), CausalDecoder)
    assert isinstance(load("gpt2"), TransformersNetwork)
    assert isinstance(load("llama", network="transformers"), TransformersNetwork)


@pytest.mark.parametrize("network", ["native", "transformers"])
def test_packed_sequences_with_a_block_mask_equal_separate_ones(network: str) -> None:
    ours = load(network=network)
    tokens, positions = batch(2, 6)
    packed = torch.cat([tokens[0], tokens[1]])[None]
    owner = torch.tensor([0] * 6 + [1] * 6)
    mask = (owner[:, None] == owner[None]) & torch.ones(12, 12, dtype=torch.bool).tril()
    together = ours(packed, positions.reshape(1, -1), mask[None])
    torch.testing.assert_close(together.view(2, 6, -1), ours(tokens, positions), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["native", "transformers"])
def test_padded_queries_that_see_nothing_leave_values_and_gradients_finite(network: str) -> None:
    ours = load(network=network)
    tokens, positions = batch(2, 6)
    mask = torch.ones(6, 6, dtype=torch.bool).tril().repeat(2, 1, 1)
    mask[1, :, 4:] = mask[1, 4:] = False
    hidden = ours(tokens, positions, mask)
    torch.testing.assert_close(hidden[1, :4], ours(tokens[1:, :4], positions[1:, :4])[0], rtol=1e-4, atol=1e-5)
    hidden.sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in ours.parameters() if w.grad is not None)


@pytest.mark.parametrize("network", ["auto", "transformers"])
@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("qwen2", False), ("qwen3", True), ("gpt2", True)])
def test_decoding_through_the_cache_equals_a_full_pass(kind: str, tied: bool, network: str) -> None:
    ours = load(kind, tied, network)
    tokens, positions = batch()
    with torch.no_grad():
        expected = ours(tokens, positions)
        ours.prepare_decoding()
        cache = ours.new_cache(3, 16)
        pieces = [slice(0, 4), slice(4, 8), slice(8, 9), slice(9, 10), slice(10, 11)]
        got = torch.cat([ours.decode(tokens[:, p], positions[:, p], cache) for p in pieces], 1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_the_cache_may_stand_at_different_positions() -> None:
    ours = load()
    tokens, positions = batch(2, 8)
    with torch.no_grad():
        expected = ours(tokens, positions)
        cache = ours.new_cache(2, 8)
        # Row 1 is two tokens behind: its padding is overwritten before it is seen.
        ours.decode(tokens[:, :5], positions[:, :5], cache)
        at = torch.tensor([[5], [3]])
        got = ours.decode(tokens.gather(1, at), at, cache)
    torch.testing.assert_close(got[0, 0], expected[0, 5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1, 0], expected[1, 3], rtol=1e-4, atol=1e-5)


def test_fused_projections_follow_weights_that_change_in_place() -> None:
    ours = load("qwen2", False)
    ours.prepare_decoding()
    with torch.no_grad():
        for name, weight in hugging_face("qwen2", False, seed=2).named_parameters():
            ours.named_weights()[name].copy_(weight)
        tokens, positions = batch()
        logits = ours.logits(ours.decode(tokens, positions, ours.new_cache(3, 11)))
        expected = hugging_face("qwen2", False, seed=2)(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 100.0},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 10000.0,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_rope_variants_equal_those_of_hugging_face(rope: dict[str, Any], tmp_path: Path) -> None:
    model = model_config("llama", rope_parameters=rope, network="native")
    create_model_folder(model, tmp_path, 0)
    tokens, positions = batch(1, 40)
    ours = load_network(model, tmp_path)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits
        torch.testing.assert_close(ours.logits(ours(tokens, positions)), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_networks_stay_close_to_hugging_faces_in_bfloat16() -> None:
    model = ModelConfig(architecture=SIZES["qwen3"], dtype="bfloat16")
    ours = load_network(model, folder())
    tokens, positions = batch()
    with torch.no_grad():
        logits, expected = ours.logits(ours(tokens, positions)), hugging_face()(tokens).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_the_same_seed_makes_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    files = [
        create_model_folder(model_config(), tmp_path / str(i), s) / "model.safetensors" for i, s in enumerate((5, 5, 6))
    ]
    same, again, other = (f.read_bytes() for f in files)
    assert same == again != other


def test_sharded_weights_are_read_and_a_lost_shard_is_named(tmp_path: Path) -> None:
    hugging_face().save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    tokens, positions = batch()
    ours = load_network(model_config(), tmp_path)
    assert len(shards) > 1
    torch.testing.assert_close(ours(tokens, positions), load()(tokens, positions), rtol=0, atol=0)
    shards[0].unlink()
    with pytest.raises(DataError, match=f"{shards[0].name} is missing; save the weights as safetensors"):
        load_network(model_config(), tmp_path)


def test_a_missing_folder_is_a_data_error_and_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gpt2 does not exist; set model\.path"):
        load_network(ModelConfig(path="gpt2"), tmp_path / "gpt2")
    with pytest.raises(DataError, match=r"does not exist; set model\.path"):
        load_tokenizer(tmp_path / "gpt2")


def test_weights_that_do_not_fit_their_config_are_named(tmp_path: Path) -> None:
    create_model_folder(model_config(), tmp_path, 0)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "model.norm.weight": torch.ones(3)}, file)
    with pytest.raises(DataError, match=r"misshapen \['model.norm.weight \(file has \[3\]\)'\]"):
        load_network(model_config(), tmp_path)
    save_file({n: w for n, w in weights.items() if n != "model.norm.weight"}, file)
    with pytest.raises(DataError, match=r"missing \['model.norm.weight'\]"):
        load_network(model_config(), tmp_path)


def test_asking_for_the_native_network_of_another_family_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'gpt2'.*set model\.network=auto"):
        load_network(model_config("gpt2", network="native"), folder("gpt2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sise": 3}, "hidden_sise is no field of a qwen3 config; did you mean 'hidden_size'"),
        ({"vocab_size": 5}, "vocab_size is 5; model.characters needs 21"),
        ({"model_type": "qwen33"}, "model_type is 'qwen33', which transformers does not know"),
    ],
)
def test_a_wrong_architecture_is_a_config_error(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model_folder(model_config(**change), tmp_path, 0)


def test_each_character_is_one_token_and_decoding_concatenates_exactly() -> None:
    text = " 12+34 = (5*6) , ."
    tokens = encode(tokenizer(), text)
    assert len(tokens) == len(text) and tokenizer().decode(tokens) == text


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(DataError, match=r"\['x', 'é'\].*add them to model\.characters"):
        encode(tokenizer(), "1+xé")


def test_characters_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each character once"):
        create_model_folder(ModelConfig(architecture=SIZES["qwen3"], characters="011"), tmp_path, 0)


def test_a_tokenizer_must_have_an_end_token_and_needs_no_pad_token(tmp_path: Path) -> None:
    create_model_folder(model_config(), tmp_path, 0)
    file = tmp_path / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in fields.items() if k != "pad_token"}))
    assert load_tokenizer(tmp_path).pad_token is None
    file.write_text(json.dumps({k: v for k, v in fields.items() if k != "eos_token"}))
    with pytest.raises(DataError, match=r"lacks eos_token; set eos_token in its tokenizer_config\.json"):
        load_tokenizer(tmp_path)

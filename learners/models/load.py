"""Making and opening model folders: config.json, safetensors weights, tokenizer. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from configs.errors import ConfigError, DataError, nearest
from configs.language import ModelConfig
from learners.models.decoder import CausalDecoder, unsupported
from learners.models.tokenizer import character_tokenizer, load_tokenizer
from learners.models.transformers_network import TransformersNetwork

__all__ = [
    "check_model_folder",
    "create_model_folder",
    "load_network",
    "read_weights",
    "weight_files",
    "weight_shapes",
]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# A bar per weight file, from every process, would bury what a run says.
transformers_logging.disable_progress_bar()


def load_network(model: ModelConfig, folder: str | Path) -> CausalDecoder | TransformersNetwork:
    """Return the network of a model folder, in evaluation mode, on `model.device` in `model.dtype`.

    Raises:
      DataError: the folder, its config.json or its weights are missing or do not fit.
      ConfigError: `model.network` is native and the architecture is not.
    """
    config = read_config(model, folder)
    reason = unsupported(config)
    if model.network == "native" and reason:
        raise ConfigError(f"model.network is 'native', but {folder} is not: {reason}; set model.network=auto")
    if reason or model.network == "transformers":
        return load_transformers(model, folder)
    with torch.random.fork_rng(devices=[]):  # the values drawn are overwritten; a process may draw others
        network = CausalDecoder(config)
    fill(network, read_weights(folder), folder)
    return network.to(device=model.device, dtype=getattr(torch, model.dtype)).eval()


def read_config(model: ModelConfig, folder: str | Path) -> Any:
    """Return the transformers config of a folder.

    Raises:
      DataError: there is no readable config.json.
    """
    if not (Path(folder) / "config.json").is_file():
        state = "has no config.json" if Path(folder).is_dir() else "does not exist"
        raise DataError(f"model folder {folder} {state}; set model.path to a Hugging Face folder")
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/config.json cannot be used: {error}; copy or save the model anew") from error


def check_model_folder(model: ModelConfig, folder: str | Path, context_length: int) -> Any:
    """Return the transformers config of a folder whose parts fit each other and the run's contexts.

    Raises:
      DataError: config, weights or tokenizer are missing or unusable, or a token id is beyond the embedding.
      ConfigError: a context is longer than the model's positions.
    """
    config = read_config(model, folder)
    weight_files(folder)
    vocabulary = load_tokenizer(folder, trust_remote_code=model.trust_remote_code).get_vocab()
    shape = config.get_text_config()
    if max(vocabulary.values()) >= shape.vocab_size:
        raise DataError(
            f"the tokenizer of {folder} has ids up to {max(vocabulary.values())}, its model embeds {shape.vocab_size} "
            "tokens; save the tokenizer that the model was trained with, or enlarge it with resize_token_embeddings"
        )
    positions = getattr(shape, "max_position_embeddings", None)
    if positions is not None and context_length > positions:
        raise ConfigError(
            f"rollout.context_length is {context_length}; it must fit the {positions} positions of {folder}; lower it"
        )
    return config


def load_transformers(model: ModelConfig, folder: str | Path) -> TransformersNetwork:
    """Return AutoModelForCausalLM of a folder behind the common interface."""
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # else it would unpickle a folder that has nothing better
            dtype=getattr(torch, model.dtype),
        )
    except (OSError, ValueError) as error:
        raise DataError(f"transformers cannot load {folder}: {error}; check its weights and config.json") from error
    return TransformersNetwork(loaded.to(model.device)).eval()


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return all safetensors weights of a folder by name, sharded or not.

    Raises:
      DataError: there are none, or a shard is missing.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights.update(load_file(file))
    return weights


def weight_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a folder by name, without reading the weights.

    Raises:
      DataError: there are none, or a shard is missing.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as weights:
            shapes.update({name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()})  # noqa: SIM118
    return shapes


def weight_files(folder: str | Path) -> list[Path]:
    """Return the safetensors files of a folder; each has a sound header and its full length.

    Raises:
      DataError: there are none, or one is missing or damaged.
    """
    root = Path(folder)
    files = [SINGLE]
    if (root / INDEX).is_file():
        files = sorted(set(json.loads((root / INDEX).read_text())["weight_map"].values()))
    for file in files:
        if not (root / file).is_file():
            raise DataError(f"{root / file} is missing; save the weights as safetensors (save_pretrained does)")
        try:
            with safe_open(root / file, framework="pt"):
                pass
        except SafetensorError as error:
            raise DataError(f"{root / file} is damaged: {error}; copy or save the weights anew") from error
    return [root / file for file in files]


def fill(network: CausalDecoder, weights: dict[str, Tensor], folder: str | Path) -> None:
    """Copy weights into a network by name; a redundant copy of tied embeddings is left out."""
    if network.lm_head is None:
        weights.pop("lm_head.weight", None)
    own = network.state_dict()
    both = own.keys() & weights.keys()
    wrong = [f"{n} (file has {list(weights[n].shape)})" for n in both if weights[n].shape != own[n].shape]
    problems = {"missing": own.keys() - weights.keys(), "unexpected": weights.keys() - own.keys(), "misshapen": wrong}
    for kind, names in problems.items():
        if names:
            raise DataError(
                f"weights of {folder} do not fit its config.json: {kind} {sorted(names)[:5]}; save both anew"
            )
    network.load_state_dict(weights)


def create_model_folder(model: ModelConfig, folder: str | Path, seed: int) -> Path:
    """Write a model of `model.architecture` with random weights and a character tokenizer; return the folder.

    The same architecture, characters and seed give the same bytes of weights.

    Raises:
      ConfigError: unknown model_type or field, or a vocabulary smaller than the alphabet.
    """
    tokenizer = character_tokenizer(model.characters)
    config = architecture_config(model.architecture, len(tokenizer))
    config.pad_token_id, config.eos_token_id, config.bos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def architecture_config(architecture: dict[str, Any], vocabulary: int) -> Any:
    """Return a transformers config from its fields; `vocab_size` defaults to the tokenizer's."""
    fields = dict(architecture)
    kind = fields.pop("model_type", None)
    try:
        known = AutoConfig.for_model(kind).to_dict()
    except ValueError as error:
        raise ConfigError(
            f"model.architecture.model_type is {kind!r}, which transformers does not know; 'qwen3' suits a tiny model"
        ) from error
    for field in fields:
        if field not in known:
            raise ConfigError(f"model.architecture.{field} is no field of a {kind} config{nearest(field, known)}")
    size = fields.setdefault("vocab_size", vocabulary)
    if size < vocabulary:
        raise ConfigError(
            f"model.architecture.vocab_size is {size}; model.characters needs {vocabulary}; leave vocab_size out"
        )
    return AutoConfig.for_model(kind, **fields)

"""An adapter on disk, as peft writes it: its matrices, and a reference to the model folder it is added to.

adapter_model.safetensors    base_model.model.<layer>.lora_A.weight, ... lora_B.weight
adapter_config.json          rank, alpha, targets, and the path of the base
"""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.adapter import AdapterConfig
from configs.errors import DataError
from configs.language import ModelConfig
from learners.models.adapter import Installer
from learners.models.load import read_weights, weight_files

__all__ = ["ADAPTER", "ADAPTER_FILES", "base_folder", "read_adapter", "require_base", "whole_weights", "write_adapter"]

ADAPTER, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_FILES = (ADAPTER, SETTINGS)
PREFIX, NAME = "base_model.model.", ".default.weight"
"""What peft puts before the name of a layer, and the name of the only adapter, which it leaves out of files."""


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], adapter: AdapterConfig, base: Path) -> None:
    """Write an adapter into a folder, so that peft reads it, too.

    Args:
      tensors: by the network's names.
      base: the model folder it is added to.
    """
    named = {f"{PREFIX}{name.removesuffix(NAME)}.weight": t.contiguous() for name, t in tensors.items()}
    save_file(named, folder / ADAPTER, metadata={"format": "pt", "base": checksum_at_first(base)})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": list(adapter.targets),
        "base_model_name_or_path": str(base.resolve()),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1))


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter's folder by the network's names; none where it holds whole weights."""
    if not (folder / ADAPTER).is_file():
        return {}
    held = load_file(folder / ADAPTER).items()
    return {f"{name.removeprefix(PREFIX).removesuffix('.weight')}{NAME}": tensor for name, tensor in held}


def base_folder(folder: Path) -> Path:
    """Return the model folder that a folder's adapter is added to; the folder itself where it holds whole weights.

    Raises:
      DataError: the base is gone, or another one.
    """
    if not (folder / ADAPTER).is_file():
        return folder
    base = Path(json.loads((folder / SETTINGS).read_text())["base_model_name_or_path"])
    if not base.is_dir():
        raise DataError(
            f"{folder} holds an adapter of {base}, which is gone; put the model back, or correct the path in {SETTINGS}"
        )
    require_base(folder, base)
    return base


def require_base(folder: Path, base: Path) -> None:
    """Refuse to add a folder's adapter, if it holds one, to other weights than it was trained on.

    Raises:
      DataError: the base's files have changed.
    """
    if not (folder / ADAPTER).is_file():
        return
    with safe_open(folder / ADAPTER, framework="pt") as file:
        wanted = file.metadata()["base"]
    if checksum(base) != wanted:
        raise DataError(f"{folder} holds an adapter of other weights than those in {base}; put the former back there")


def checksum(folder: Path) -> str:
    """Return the xxh3 of a model folder's files of weights."""
    total = xxhash.xxh3_64()
    for path in weight_files(folder):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            total.update(content)
    return total.hexdigest()


checksum_at_first = functools.cache(checksum)
"""Of a base that is read once, at the start of a process."""


def whole_weights(model: ModelConfig, base: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's whole weights: what a learner publishes, added to the base where it is an adapter.

    Args:
      base: the run's model folder.
    """
    if not model.adapter.rank:
        return dict(tensors)
    held = {name: weight.to(getattr(torch, model.dtype)) for name, weight in read_weights(base).items()}
    Installer(held, model.adapter).install(0, tensors)
    return held

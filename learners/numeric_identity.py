"""What float results depend on beside the configuration: replay under another identity proves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from buffers.files import disk, write_atomically
from configs.errors import DataError

__all__ = ["check_identity", "numeric_identity", "record_identity"]

FILE = "numeric_identity.json"


def numeric_identity(device: str) -> dict[str, str]:
    """Return the properties of this process that change results in the last bit."""
    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": accelerator,
    }


def record_identity(run_folder: Path, epoch: int, device: str) -> None:
    """Note the identity of an epoch of a run."""
    path = run_folder / FILE
    known = json.loads(path.read_text()) if path.exists() else {}
    with disk(path):
        write_atomically(path, json.dumps({**known, str(epoch): numeric_identity(device)}, indent=1).encode())


def check_identity(run_folder: Path, device: str) -> None:
    """Refuse a run that another kind of machine computed.

    Raises:
      DataError: the first property that differs, or that nothing was recorded.
    """
    path = run_folder / FILE
    if not path.exists():
        raise DataError(f"{path} is missing; without it nobody knows what would have to be the same")
    here = numeric_identity(device)
    for epoch, there in json.loads(path.read_text()).items():
        for name, value in there.items():
            if here[name] != value:
                rule = f"epoch {epoch} was computed with {name} {value!r}, here it is {here[name]!r}"
                raise DataError(f"{path}: {rule}; replay where it is the same")

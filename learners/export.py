"""`launch.py export`: the model of a checkpoint as a folder that any Hugging Face loader reads, adapters merged."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from configs.errors import DataError
from configs.load import load_config
from configs.parts import Parts
from configs.schema import RunConfig
from learners.checkpoint import MANIFEST, MODEL, OPTIMISER, REFERENCE, RNG, STATE, find, verify, write_tensors
from learners.models.adapter_folder import ADAPTER_FILES, base_folder, read_adapter, whole_weights

__all__ = ["export"]

OURS = {OPTIMISER, REFERENCE, RNG, STATE, MANIFEST}
"""What only a learner needs."""


def export(words: list[str], make_parts: Callable[[RunConfig], Parts]) -> int:
    """Copy a checkpoint's model to a new folder: `launch.py export RUN FOLDER [--version N] [--dry-run] [--json]`."""
    parser = argparse.ArgumentParser(prog="launch.py export", description=export.__doc__)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>")
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--version", type=int, help="the newest checkpoint's when left out")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    found = find(options.run / "checkpoints", options.version)
    verify(found.path)
    if options.folder.exists():
        raise DataError(f"{options.folder} exists already; export to a folder that does not, or remove it")
    files = sorted({MODEL if file.name in ADAPTER_FILES else file.name for file in found.path.iterdir()} - OURS)
    if not options.dry_run:
        write(options.run, found.path, options.folder)
    done = {"folder": str(options.folder), "version": found.version, "files": files, "written": not options.dry_run}
    print(json.dumps(done) if options.json else f"version {found.version} in {options.folder}: {', '.join(files)}")
    return 0


def write(run: Path, checkpoint: Path, folder: Path) -> None:
    """Copy the model of a checkpoint; an adapter is added to its base."""
    adapter, base = read_adapter(checkpoint), base_folder(checkpoint)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*OURS, *ADAPTER_FILES))
    if adapter:
        model = load_config([run / "config.yaml"], []).model
        write_tensors(folder / MODEL, whole_weights(model, base, adapter))

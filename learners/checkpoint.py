"""Checkpoint folders: a model any Hugging Face loader reads, and what a learner needs to go on bit for bit.

    <root>/v00000120/   model.safetensors config.json tokenizer...   the model folder of version 120; of an adapter
                        adapter_model.safetensors adapter_config.json   as peft reads it, beside its base's path
                        optimizer.safetensors reference.safetensors rng.safetensors
                        state.json       progress, lineage, epoch, metrics
                        manifest.json    sha256 of every other file

A folder is written under another name, synced, and renamed: it is whole or it is not there.
Nothing is pickled, so that opening a foreign checkpoint executes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.adapter import NO_ADAPTER, AdapterConfig
from configs.errors import DataError
from learners.models.adapter_folder import ADAPTER_FILES, read_adapter, write_adapter
from learners.progress import LearnerState, Progress

__all__ = ["Checkpoint", "checkpoints", "find", "load_checkpoint", "newest", "retain", "save_checkpoint", "verify"]

MODEL, OPTIMISER, REFERENCE, RNG = (f"{n}.safetensors" for n in ("model", "optimizer", "reference", "rng"))
STATE, MANIFEST = "state.json", "manifest.json"
PARTIAL = ".partial-"
REPLACED = ".replaced"
REMEDY = "remove that folder, and resume=true goes on from the checkpoint before it"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One folder and what its state.json says."""

    path: Path
    version: int
    lineage: str = ""
    """Which of the run's histories these weights belong to."""
    epoch: int = 0
    """Epoch of the run that wrote it."""
    trained_digest: str = ""
    trained_count: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics at this version, for example eval accuracy."""


def save_checkpoint(
    root: str | Path,
    state: LearnerState,
    model_folder: str | Path,
    *,
    lineage: str = "",
    epoch: int = 0,
    metrics: Mapping[str, float] | None = None,
    fence: Callable[[], None] = lambda: None,
    adapter: AdapterConfig = NO_ADAPTER,
) -> Checkpoint:
    """Write the folder of a state and return it; a folder of the same version is replaced.

    Args:
      root: folder of all checkpoints.
      model_folder: where config.json and tokenizer come from.
      fence: called before the folder gets its name; raises when the writer was replaced meanwhile.
      adapter: what the state's weights are; of rank 0 they are whole ones.

    Raises:
      DataError: the disk refused; what was there before still is.
    """
    target = Path(root) / f"v{state.progress.version:08d}"
    partial = target.with_name(f"{PARTIAL}{target.name}-{os.getpid()}")
    note = {"lineage": lineage, "epoch": epoch, "metrics": dict(metrics or {})}
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(partial, state, Path(model_folder), note, adapter)
        fence()
        publish(partial, target)
    except (OSError, SafetensorError) as error:
        refused = f"checkpoint {target} cannot be written: {error}"
        raise DataError(f"{refused}; free the disk, then resume the run") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return describe(target)


def write(
    partial: Path, state: LearnerState, model_folder: Path, note: Mapping[str, object], adapter: AdapterConfig
) -> None:
    """Write every file of a checkpoint."""
    partial.mkdir(parents=True)
    copy_description(partial, model_folder)
    if adapter.rank:
        write_adapter(partial, state.model, adapter, model_folder)
    else:
        write_tensors(partial / MODEL, state.model)
    rest = {"torch": state.rng, **state.extra}
    sections = {OPTIMISER: state.optimiser, REFERENCE: state.reference, RNG: rest}
    for name, tensors in sections.items():
        write_tensors(partial / name, tensors)
    (partial / STATE).write_text(json.dumps({**note, "progress": dataclasses.asdict(state.progress)}, indent=1))
    (partial / MANIFEST).write_text(json.dumps({f.name: digest(f) for f in sorted(partial.iterdir())}, indent=1))


def write_model(folder: Path, weights: Mapping[str, Tensor], model_folder: Path) -> None:
    """Write weights, in one file, and a copy of everything else that describes the model."""
    copy_description(folder, model_folder)
    write_tensors(folder / MODEL, weights)


def copy_description(folder: Path, model_folder: Path) -> None:
    """Copy everything that describes a model but its weights."""
    for file in sorted(model_folder.iterdir()):
        if file.is_file() and ".safetensors" not in file.name and file.name not in (STATE, MANIFEST, *ADAPTER_FILES):
            shutil.copyfile(file, folder / file.name)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as Hugging Face loaders expect them."""
    save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata={"format": "pt"})


def publish(partial: Path, target: Path) -> None:
    """Sync a finished folder and give it its name."""
    for file in (*partial.iterdir(), partial):
        sync(file)
    stale = target.with_name(f"{target.name}{REPLACED}")
    if target.exists():
        # A resumed run reached this version again; rename cannot replace a folder that holds files. Under its other
        # name the old one still counts, until the new one has its own.
        shutil.rmtree(stale, ignore_errors=True)
        target.rename(stale)
    partial.rename(target)
    sync(target.parent)
    if stale.exists():
        remove(stale)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, object]:
    """Return a JSON object.

    Raises:
      DataError: the file is missing or is no JSON.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"checkpoint file {path} cannot be read: {error}; {REMEDY}") from error
    return dict(content)


def describe(path: str | Path) -> Checkpoint:
    """Return what a folder's state.json says.

    Raises:
      DataError: it has none.
    """
    folder = Path(path)
    content = read_json(folder / STATE)
    try:
        progress = Progress(**content["progress"])  # type: ignore[arg-type]
        lineage, epoch, metrics = content["lineage"], content["epoch"], content["metrics"]
    except (KeyError, TypeError) as error:
        raise DataError(f"checkpoint file {folder / STATE} lacks {error}; {REMEDY}") from error
    return Checkpoint(
        path=folder,
        version=progress.version,
        lineage=str(lineage),
        epoch=int(str(epoch)),
        trained_digest=progress.trained_digest,
        trained_count=progress.trained_count,
        metrics=metrics,  # type: ignore[arg-type]
    )


def checkpoints(root: str | Path) -> list[Checkpoint]:
    """Return all finished checkpoints, oldest version first."""
    folders = sorted(p for p in Path(root).glob("v*") if p.is_dir()) if Path(root).is_dir() else []
    folders = [p for p in folders if p.suffix != REPLACED or not p.with_suffix("").exists()]
    return [describe(folder) for folder in folders]


def newest(root: str | Path) -> Checkpoint | None:
    """Return the checkpoint of the highest version, or None."""
    return max(checkpoints(root), key=lambda c: c.version, default=None)


def find(root: str | Path, version: int | None = None) -> Checkpoint:
    """Return the checkpoint of a version, or of the newest one.

    Raises:
      DataError: there is none; the message lists those there are.
    """
    held = {checkpoint.version: checkpoint for checkpoint in checkpoints(root)}
    wanted = max(held, default=-1) if version is None else version
    if wanted not in held:
        known = ", ".join(map(str, held)) or "none"
        raise DataError(f"{root} holds no checkpoint of version {wanted}; versions there: {known}")
    return held[wanted]


def verify(path: str | Path) -> None:
    """Compare every file with the manifest.

    Raises:
      DataError: a file is missing or altered; the message names it.
    """
    for name, expected in read_json(Path(path) / MANIFEST).items():
        file = Path(path) / name
        if not file.is_file():
            raise DataError(f"checkpoint file {file} is missing; {REMEDY}")
        if digest(file) != expected:
            raise DataError(f"checkpoint file {file} does not match its sha256; {REMEDY}")


def load_checkpoint(path: str | Path) -> LearnerState:
    """Return the state in a folder, after verifying it.

    Raises:
      DataError: a file is missing or altered.
    """
    verify(path)
    folder = Path(path)
    content = read_json(folder / STATE)
    tensors: list[dict[str, Tensor]] = [load_file(folder / name) for name in (OPTIMISER, REFERENCE, RNG)]
    return LearnerState(
        progress=Progress(**content["progress"]),  # type: ignore[arg-type]
        model=read_adapter(folder) or load_file(folder / MODEL),
        optimiser=tensors[0],
        reference=tensors[1],
        rng=tensors[2].pop("torch"),
        extra=tensors[2],
    )


def retain(root: str | Path, *, keep_last: int, keep_best: int, metric: str) -> list[Path]:
    """Delete all but the newest and the best checkpoints, and what crashed writers left; return what went.

    Args:
      keep_last: newest versions to keep, at least 1.
      keep_best: versions with the highest `metric` to keep; among equals the newer one.
    """
    held = checkpoints(root)
    scored = sorted((c for c in held if metric in c.metrics), key=lambda c: (c.metrics[metric], c.version))
    kept = {c.path for c in held[-max(1, keep_last) :]} | {c.path for c in scored[len(scored) - keep_best :]}
    gone = sorted(Path(root).glob(f"{PARTIAL}*")) + [c.path for c in held if c.path not in kept]
    for folder in gone:
        remove(folder)
    return gone


def remove(folder: Path) -> None:
    """Delete a folder under a name that no checkpoint has: a crash on the way leaves no half of one."""
    going = folder if folder.name.startswith(PARTIAL) else folder.with_name(f"{PARTIAL}{folder.name}-going")
    if going != folder:
        shutil.rmtree(going, ignore_errors=True)
        folder.rename(going)
    shutil.rmtree(going)

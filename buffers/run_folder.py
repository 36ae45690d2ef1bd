"""A run's folder: one owner at a time, numbered epochs, fixed places for what a run leaves.

runs/<name>/  lock  run.json  config.yaml  summary.json  report.html
              ledger/  trajectories/  metrics/  checkpoints/  logs/
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from buffers.epochs import begin_epoch
from buffers.files import disk, write_atomically
from configs.errors import ConfigError, DataError

__all__ = ["FOLDERS", "RunFolder", "read_run", "run_key"]

JOB_FOLDER = "_ray_pkg_"
"""How Ray begins the names of the folders that it unpacks the working directories of jobs into."""
FOLDERS = ("ledger", "trajectories", "metrics", "checkpoints", "logs")


def run_key(path: Path) -> str:
    """Return what a run is called beside other runs, in shared memory and on a cluster; names in two places differ."""
    return f"headrace-{path.name}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"


class RunFolder:
    """An exclusively locked run folder; the lock ends with the process, however it dies."""

    def __init__(self, path: Path, *, is_made: bool = False) -> None:
        self.path, self._is_made = path, is_made
        self._lock = _lock(path)
        self.epoch = self.begin_epoch()

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make, lock and open the folder of a new run.

        Raises:
          DataError: it holds a run already, another process has it, or it would not outlive the job.
        """
        _refuse_job_folder(path)
        if (path / "run.json").exists():
            raise DataError(f"run folder {path} holds a run already; pass resume=true, or another name=")
        is_made = not path.exists()
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
        folder = cls(path, is_made=is_made)
        folder.write_run({})
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Lock and open the folder of an earlier run.

        Raises:
          DataError: there is no run, or another process has it.
        """
        read_run(path)
        return cls(path)

    def begin_epoch(self) -> int:
        """Fence off every writer so far, before a member that writes is restarted; return the new epoch."""
        with disk(self.path):
            self.epoch = begin_epoch(self.path / "ledger")
            begin_epoch(self.path / "trajectories", at_least=self.epoch)
        return self.epoch

    def write_run(self, fields: Mapping[str, Any]) -> None:
        """Replace run.json atomically: address, namespace, pid, epoch, status, ..."""
        text = json.dumps({**fields, "epoch": self.epoch}, indent=1)
        with disk(self.path):
            write_atomically(self.path / "run.json", text.encode())

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        is_unused = self._is_made and not any((self.path / "ledger").glob("events-*"))
        if is_unused and isinstance(error, ConfigError | DataError):
            shutil.rmtree(self.path)  # wrong input, and nothing was generated yet: the corrected run may have the name
        self.close()


def read_run(path: Path) -> dict[str, Any]:
    """Return run.json of a run folder, locked or not.

    Raises:
      DataError: there is none, or it is not JSON.
    """
    try:
        fields = json.loads((path / "run.json").read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is not a run folder: it has no run.json; give runs/<name>") from error
    except ValueError as error:
        raise DataError(f"{path / 'run.json'} is not JSON: {error}; restore it from a copy") from error
    return dict(fields)


def _refuse_job_folder(path: Path) -> None:
    if any(part.startswith(JOB_FOLDER) for part in path.resolve().parts):
        raise DataError(
            f"run folder {path} lies in the working directory of a Ray job, which is removed with the job; give "
            "runs_folder= an absolute path on storage that all nodes share"
        )


def _lock(path: Path) -> TextIO:
    file = (path / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise DataError(f"run folder {path} is in use by pid {owner}; stop that run, or pass another name=") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file

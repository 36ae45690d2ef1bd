"""`launch.py submit`: a run as a job of a Ray cluster, its output here.

    here: check the words, pack the working directory -> cluster: python launch.py run WORDS cluster.address=auto

The token of the cluster comes from RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN or ~/.ray/auth_token, and goes nowhere else.
Keys of endpoints are not sent: they belong into the environment of the nodes, as a job's settings can be read by
all who see the dashboard.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.ray_jobs import Jobs
from actors.working_folder import MIB, pack
from configs.errors import DataError, require
from configs.load import read_config

__all__ = ["entrypoint", "submit"]

MAX_MIB = 64
JOIN = "cluster.address=auto"
"""A job runs on the cluster that it was submitted to."""


def submit(words: list[str]) -> int:
    """Run as a job of a cluster: `launch.py submit [CONFIG.yaml ...] --address URL [key=value ...]`.

    Shows its output and returns its exit code; with --no-wait, prints the name of the job and ends.
    """
    options = _parser().parse_intermixed_args(words)
    folder = options.working_dir.resolve()
    command = entrypoint(folder, options.words)
    with tempfile.TemporaryDirectory(prefix="headrace-") as scratch:
        archive = Path(scratch) / "working_dir.zip"
        files = pack(folder, archive, int(options.max_mib * MIB))
        job = {
            "entrypoint": command, "working_dir": str(folder),
            "files": len(files), "archive_bytes": archive.stat().st_size,
        }  # fmt: skip
        if options.dry_run:
            print(json.dumps(job) if options.json else "\n".join(f"{key}: {value}" for key, value in job.items()))
            return 0
        require(bool(options.address), "--address", options.address, "be the dashboard's URL", "http://127.0.0.1:8265")
        jobs = Jobs(options.address)
        name = jobs.submit(command, archive)
    print(json.dumps({"job": name, **job}) if options.json else f"job {name} of {options.address}: {command}")
    return 0 if options.no_wait else follow(jobs, name, options.address)


def follow(jobs: Jobs, name: str, address: str) -> int:
    """Show the output of a job until it ends; return its exit code, 1 if it has none."""
    try:
        asyncio.run(jobs.show(name))
    except KeyboardInterrupt:
        print(f"job {name} goes on; `ray job logs --follow {name} --address {address}` shows it")
        raise
    code, message = jobs.outcome(name)
    if code:
        print(f"job {name} failed: {message}")
    return code


def entrypoint(folder: Path, words: Sequence[str]) -> str:
    """Return the command line of a job, run in the working directory.

    Raises:
      ConfigError: a setting is wrong, or the run folder would end with the job.
      DataError: the working directory has no launch.py, or a preset is not in it.
    """
    if not (folder / "launch.py").is_file():
        raise DataError(f"working directory {folder} has no launch.py; give --working-dir the folder that has")
    config = read_config(words)
    require(
        os.path.isabs(config.runs_folder),
        "runs_folder",
        config.runs_folder,
        "be an absolute path on storage that all nodes share: a job's working directory is removed with it",
        "give runs_folder=/shared/runs",
    )
    joined = () if config.cluster.address else (JOIN,)
    return shlex.join(["python", "launch.py", "run", *(_in_folder(folder, word) for word in words), *joined])


def _in_folder(folder: Path, word: str) -> str:
    """Return a word of the command line as the job finds it; presets are files of the working directory."""
    if "=" in word:
        return word
    path = Path(word).resolve()
    if not path.is_relative_to(folder):
        raise DataError(f"{word} is not in the working directory {folder}, which is all that a job sees; copy it there")
    return path.relative_to(folder).as_posix()


def _parser() -> Any:
    parser = argparse.ArgumentParser(prog="launch.py submit", description=submit.__doc__)
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value")
    parser.add_argument("--address", metavar="URL", help="of the cluster's dashboard, such as http://127.0.0.1:8265")
    parser.add_argument("--working-dir", type=Path, default=Path(), help="what travels to the cluster; default: here")
    parser.add_argument("--max-mib", type=float, default=MAX_MIB, help=f"how large it may be; default {MAX_MIB}")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the job's end")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    parser.add_argument("--json", action="store_true")
    return parser

"""`launch.py sweep`: the runs of a sweep one after another, each in its own process, then their comparison."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from buffers.records.compare import show_comparison
from buffers.records.compare_data import flatten, load_groups, settings
from buffers.run_folder import read_run
from configs.errors import ConfigError, DataError
from configs.sweep import Planned, load_sweep

__all__ = ["sweep_runs"]

LAUNCH = Path(__file__).resolve().parents[2] / "launch.py"
FINISHED = "finished"


def sweep_runs(words: list[str]) -> int:
    """Run a preset over seeds: `launch.py sweep FILE.yaml [--seeds 0,1,2] [key=value ...] [--dry-run] [--json]`.

    Runs that finished are left as they are, unfinished ones are resumed; exit code 1: some did not finish.
    """
    parser = argparse.ArgumentParser(prog="launch.py sweep", description=sweep_runs.__doc__)
    parser.add_argument("file", type=Path, help="a sweep (base, seeds, grid) or a preset")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="for every run")
    parser.add_argument("--seeds", type=_seeds, help="such as 0,1,2; those of the file when left out")
    parser.add_argument("--output", type=Path, help="the page; <runs folder>/<name>-sweep.html when left out")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(words)
    sweep = load_sweep(options.file, options.seeds)
    runs = sweep.plan(options.settings)
    outcomes = {run.config.name: _state(run) for run in runs}
    for at, run in enumerate(runs):
        state = outcomes[run.config.name]
        _say(f"sweep {at + 1} of {len(runs)}: {run.config.name}: {state}", options.json)
        if state != FINISHED and not options.dry_run:
            outcomes[run.config.name] = _play(run, resume=state == "resume", quiet=options.json)
    if options.dry_run:
        print(json.dumps({"outcomes": outcomes}) if options.json else "nothing was started")
        return 0
    done = [run.folder for run in runs if outcomes[run.config.name] == FINISHED]
    if done:
        target = options.output or done[0].parent / f"{sweep.base.stem}-sweep.html"
        show_comparison(load_groups(done), target, as_json=options.json, more={"outcomes": outcomes})
    elif options.json:
        print(json.dumps({"outcomes": outcomes}))
    return _report(outcomes)


def _state(run: Planned) -> str:
    """Return what is to be done: run, resume, or nothing any more (finished).

    Raises:
      DataError: the folder holds a run of another configuration.
    """
    if not (run.folder / "run.json").exists():
        return "run"
    if (run.folder / "config.yaml").exists():
        held, wanted = settings(run.folder), flatten(asdict(run.config))
        for key in {**held, **wanted}:
            if held.get(key) != wanted.get(key):
                raise DataError(
                    f"{run.folder} holds a run with {key}={held.get(key)!r}, the sweep asks for {wanted.get(key)!r}; "
                    "remove the folder, or pass another name="
                )
    return FINISHED if read_run(run.folder).get("status") == FINISHED else "resume"


def _play(run: Planned, *, resume: bool, quiet: bool) -> str:
    """Run one process to its end; return how the run ended."""
    words = [*run.words, *(["resume=true"] if resume else []), *(["--json"] if quiet else [])]
    with subprocess.Popen(
        [sys.executable, str(LAUNCH), "run", *words], stdout=subprocess.DEVNULL if quiet else None
    ) as process:
        interrupted = False
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True  # the run has heard it too, and writes a checkpoint now
    if interrupted:
        raise KeyboardInterrupt
    status = str(read_run(run.folder).get("status")) if (run.folder / "run.json").exists() else "never started"
    return status if code == 0 else f"failed with exit code {code}"


def _report(outcomes: Mapping[str, str]) -> int:
    unfinished = {name: outcome for name, outcome in outcomes.items() if outcome != FINISHED}
    for name, outcome in unfinished.items():
        print(f"{name}: {outcome}", file=sys.stderr)
    if unfinished:
        print(f"{len(unfinished)} of {len(outcomes)} runs did not finish; the same command goes on", file=sys.stderr)
    return 1 if unfinished else 0


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds is {text!r}; it must be whole numbers between commas, such as 0,1,2") from error

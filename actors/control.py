"""Commands to a live run: status, scale, pause, resume, stop. They talk to the run's supervisor."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors import ray_adapter
from actors.readout import load_line
from buffers.records.alarm_log import active_alarms
from buffers.run_folder import read_run
from configs.cluster import ClusterConfig
from configs.errors import DataError
from configs.load import load_config

__all__ = ["COMMANDS"]

ANSWER_S = 60.0


def status(words: list[str]) -> int:
    """Show a run's pools, their load, raised alarms and latest events: `launch.py status RUN [--json]`."""
    options = _parser("status", status.__doc__).parse_args(words)
    state = read_run(options.run)
    if state.get("status") == "running":
        state |= _ask(options.run, "status")
    state["alarms"] = active_alarms(options.run)
    if options.json:
        print(json.dumps(state, indent=1))
        return 0
    print(f"{options.run.name}: {state['status']}, epoch {state['epoch']}, pid {state.get('pid')}")
    if state.get("metrics"):
        print(f"  Prometheus: {state['metrics']}")
    for name, pool in state.get("pools", {}).items():
        size = f"{len(pool['members'])} of {pool['wanted']} members, {pool['restarts']} restarts"
        size += f", {len(pool['leaving'])} leaving" if pool["leaving"] else ""
        print(f"  {name:<20}{size:<32}{load_line(pool.get('load', {}))}".rstrip())
        if last := pool["decision"]:
            print(f"  {'':<20}{_clock(last['time'])} {last['before']} -> {last['after']}, since {last['why']}")
    for name, alarm in state["alarms"].items():
        print(f"  {_clock(alarm['time'])} ALARM {name}: {alarm['text']}")
    for when, text in state.get("events", []):
        print(f"  {_clock(when)} {text}")
    return 0


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


def scale(words: list[str]) -> int:
    """Change the size of pools of a live run: `launch.py scale RUN rollout=2 [--dry-run] [--json]`."""
    parser = _parser("scale", scale.__doc__)
    parser.add_argument("sizes", nargs="+", metavar="POOL=N")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(words)
    for word in options.sizes:
        pool, _, count = word.partition("=")
        if not count.isdigit():
            raise DataError(f"scale {word!r} is not POOL=N; for example rollout=2")
        if options.dry_run:
            print(f"would scale {pool} to {count}")
            continue
        cluster = load_config([options.run / "config.yaml"], []).cluster
        deadline_s = cluster.start_deadline_s + ANSWER_S  # new members are ready when it answers
        answer = _ask(options.run, "scale", pool, int(count), deadline_s=deadline_s)
        print(json.dumps({pool: answer}) if options.json else f"{pool}: {answer['before']} -> {answer['after']}")
    return 0


def _command(name: str, meaning: str) -> Callable[[list[str]], int]:
    def send(words: list[str]) -> int:
        parser = _parser(name, f"{meaning}: `launch.py {name} RUN [--dry-run] [--json]`.")
        parser.add_argument("--dry-run", action="store_true")
        options = parser.parse_args(words)
        if not options.dry_run:
            _ask(options.run, "request", name)
        done = {"run": options.run.name, "command": name, "sent": not options.dry_run}
        print(json.dumps(done) if options.json else f"{options.run.name}: {name} {'' if done['sent'] else 'not '}sent")
        return 0

    return send


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"launch.py {name}", description=description)
    parser.add_argument("run", type=Path, help="run folder, runs/<name>")
    parser.add_argument("--json", action="store_true")
    return parser


def _ask(run: Path, method: str, *arguments: Any, deadline_s: float = ANSWER_S) -> Any:
    """Call the supervisor of a live run.

    Raises:
      DataError: the folder is no run, or its run has ended.
    """
    state = read_run(run)
    if state.get("status") != "running":
        raise DataError(f"{run} is not running (status {state.get('status')}); start it, or look at summary.json")
    ray_adapter.connect(ClusterConfig(address=state["address"]), state["namespace"])
    try:
        return asyncio.run(_answer(method, arguments, deadline_s))
    finally:
        ray_adapter.leave()


async def _answer(method: str, arguments: Sequence[Any], deadline_s: float) -> Any:
    supervisor = ray_adapter.find("supervisor")
    return await supervisor.call(method, *arguments, deadline_s=deadline_s, awaiting="the supervisor's answer")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "status": status,
    "scale": scale,
    "stop": _command("stop", "End a run after its present update, with a checkpoint"),
    "pause": _command("pause", "Hold the learner before its next update"),
    "resume": _command("resume", "Let a paused learner go on"),
}

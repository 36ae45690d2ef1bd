"""headrace: `python launch.py [run] [CONFIG.yaml ...] [key=value ...]`; the composition root.

This file parses, dispatches and assembles. It is the only place that knows actors, rewards and
learners alike, and it defines no class: as `__main__`, its classes would pickle by value.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from actors import control, local_adapter, ray_adapter
from actors.decisions import DecisionLog
from actors.listener import RunListener
from actors.member import MemberSpec
from actors.pools import pools
from actors.ray_placement import placing
from actors.submit import submit
from actors.view import View, make_view
from buffers.records import commands as records
from buffers.run_folder import RunFolder, run_key
from buffers.transport import free_address
from configs.catalogue import show_catalogue
from configs.errors import ConfigError, DataError, RunError
from configs.load import read_config
from configs.parts import Parts
from configs.plan import show_plan
from configs.recorded import record_config
from configs.registry import Deferred, resolve
from configs.schema import RunConfig
from learners.session import Plan, Session

REQUIREMENTS = tuple(f"{package}.requirements:requirements" for package in ("learners", "actors", "rewards", "buffers"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted before the stream began."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbs: dict[str, Callable[[list[str]], int]] = {
        "run": run, "check": check, "list": show_catalogue, "submit": submit,
        "eval": partial(offline, "actors.evaluate_command:evaluate"),
        "replay": partial(offline, "learners.replay:replay"), "export": partial(offline, "learners.export:export"),
        "score": partial(offline, "rewards.scoring.command:score"),
        **control.COMMANDS, **records.COMMANDS,
    }  # fmt: skip
    verb = words.pop(0) if words and words[0] in verbs else "run"
    try:
        return verbs[verb](words)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(words: list[str]) -> int:
    """Train: `launch.py run [CONFIG.yaml ...] [key=value ...] [--dry-run] [--json]`."""
    parser = argparse.ArgumentParser(prog="launch.py run", description=run.__doc__)
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, start nothing")
    parser.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    options = parser.parse_intermixed_args(words)
    config = read_config(options.words)
    if options.dry_run:
        return check(options.words)
    began = time.time()
    path = Path(config.runs_folder) / config.name
    with RunFolder.open(path) if config.resume else RunFolder.create(path) as folder:
        record_config(config, path)
        shown = "quiet" if options.json else config.logging.view
        view = make_view(
            shown, name=config.name, run_mode=config.mode, max_staleness=config.max_staleness, seed=config.seed
        )
        try:
            summary = asyncio.run(conduct(config, folder, view, began))
        finally:
            view.close()
    if options.json:
        print(json.dumps(summary))
    return 0


def check(words: list[str]) -> int:
    """Validate a configuration and print the plan: `launch.py check [CONFIG.yaml ...] [key=value ...] [--json]`."""
    config = read_config([word for word in words if word != "--json"])
    spec = make_parts(config).spec
    parts = [resolve({}, path, "requirements")(config, spec) for path in REQUIREMENTS]
    return show_plan([line for part in parts for line in part], as_json="--json" in words)


def offline(target: str, words: list[str]) -> int:
    """Run a command of another package on a run folder, without a cluster."""
    code: int = Deferred(target, (words, make_parts))()
    return code


def make_parts(config: RunConfig) -> Parts:
    """Say how the parts of a configuration are made."""
    tasks, seed = config.tasks, config.seed
    return Parts(
        tasks=Deferred("actors.tasks:cursor", (config,)),
        spec=Deferred("actors.environments:describe", (config.environment,)),
        held_out=Deferred("actors.tasks:held_out_tasks", (tasks, seed, config.eval.tasks)),
        examples=Deferred("actors.tasks:warm_start_examples", (tasks, seed, config.warm_start.examples)),
        graph=Deferred("rewards:build", (config,)),
        combine=Deferred("rewards:build_combine", (config,)),
        reward_server=partial(Deferred("rewards.pools:server"), config),
        reference=Deferred("rewards.reference:reference_folder", (config,)),
        model_server=partial(Deferred("actors.serving.pools:server"), config),
        generation_check=Deferred("actors.generation_check:build", (config,)),
        checkpoint=Deferred("learners.checkpoint:find", ()),
    )


def assemble(config: RunConfig, folder: RunFolder) -> Plan:
    """Say how every pool of a run is made; nothing is imported or started for it here."""
    path, learner = folder.path.resolve(), config.learner
    model = Path(config.model.path).resolve() if config.model.path else path / "model"
    parts = make_parts(config)
    address = free_address() if learner.ranks > 1 else ""

    def buffer_pool(version: int) -> MemberSpec:
        arguments = (config, path, folder.epoch, version, parts.tasks, parts.graph)
        return MemberSpec(pool="buffer", factory=Deferred("buffers.host:build", arguments))

    def reward_spec(pool: Any) -> tuple[MemberSpec, int]:
        fields = {name: value for name, value in vars(pool).items() if name not in ("members", "figures")}
        return MemberSpec(**fields, together=pool.members), pool.members

    served = list(resolve({}, "rewards.pools:pools", "rewards")(config, path, parts))
    rank = MemberSpec(
        pool="learner",
        factory=Deferred("learners.host:build", (config, path, folder.epoch, address, parts.examples, parts.spec)),
        indexed=True, num_cpus=learner.num_cpus, num_gpus=learner.num_gpus, placement=learner.placement,
        together=learner.ranks, closes=True,
    )  # fmt: skip
    language = Deferred("actors.evaluate:build", (config, model, parts.held_out, parts.graph))
    lanes = Deferred("actors.evaluate_lanes:build", (config,))
    evaluator = MemberSpec(
        pool="evaluator", factory=lanes if config.is_decision else language, own_pulse=config.is_decision
    )
    return Plan(
        learners=(rank, learner.ranks),
        buffer=buffer_pool,
        rewards=tuple(map(reward_spec, served)),
        observed={pool.pool: pool.figures for pool in served if pool.figures},
        evaluator=evaluator if config.evaluates else None,
        workers=partial(pools, config, model, resolve({}, "rewards.pools:asking_policy", "rewards")(config)),
    )


async def conduct(config: RunConfig, folder: RunFolder, view: View, began: float) -> dict[str, Any]:
    """Run a session on its cluster; write summary and report whatever happens; return the summary."""
    adapter: Any = local_adapter if config.cluster.address == "local" else ray_adapter
    view.phase("starting in this process" if adapter is local_adapter else "starting Ray")
    namespace = run_key(folder.path)
    address = adapter.connect(config.cluster, namespace)
    spawn = adapter.spawn if adapter is local_adapter else await placing(config, folder.path.resolve())
    process = {"address": address, "namespace": namespace, "pid": os.getpid(), "started": began,
               "metrics": adapter.metrics_address()}  # fmt: skip
    folder.write_run({**process, "status": "running"})
    told = (config.cluster, spawn, adapter.store_figures(), DecisionLog(folder.path.resolve()))
    factory = Deferred("actors.supervisor:build", told)
    spec = MemberSpec(pool="supervisor", registered_as="supervisor", factory=factory)
    supervisor = adapter.spawn(spec, "supervisor")
    listener = RunListener(config, folder.path, view, adapter.sinks(config.name))
    session = Session(config, assemble(config, folder), supervisor=supervisor, listener=listener, announcer=view)
    status = "failed"
    try:
        await supervisor.build(config.cluster.start_deadline_s)
        status = await session.run()
    finally:
        await adapter.end(supervisor)  # first: a full disk refuses the rest
        listener.close()
        folder.write_run({**process, "status": status})
        summary = session.summarise(folder.path, status, time.time() - began)
    view.summary(summary)
    return summary


if __name__ == "__main__":
    sys.exit(main())

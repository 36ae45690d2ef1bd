"""What the generating side of a run needs, for `launch.py check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from actors.engines import CHECKS, ENGINES
from actors.placement_check import placement
from actors.programs import build as build_program
from actors.serving import requirements as models
from actors.tasks import build as build_tasks
from buffers.environment_spec import EnvironmentSpec
from configs.plan import Requirement
from configs.registry import resolve
from configs.schema import RunConfig

__all__ = ["requirements"]


def requirements(config: RunConfig, spec: Callable[[], EnvironmentSpec]) -> Iterator[Requirement]:
    """Build tasks and program as the run would, look whether the engine is there, and whether all pools fit.

    Args:
      spec: returns what a decision policy acts in.

    Raises:
      ConfigError, DataError: a component or a task file cannot be used.
    """
    yield from _lanes(config, spec()) if config.is_decision else _language(config)
    yield from models.requirements(config)
    yield from placement(config)


def _lanes(config: RunConfig, spec: EnvironmentSpec) -> Iterator[Requirement]:
    section = config.environment
    shown = ", ".join(f"{name} {list(a.shape)} {a.dtype}" for name, a in spec.observations.items())
    actions = spec.actions.sizes or f"in [{min(spec.actions.low)}, {max(spec.actions.high)}]"
    text = f"{spec.name}: observations {shown}; {spec.actions.kind} actions {actions}"
    yield Requirement(subject="environment", text=text)
    bound = (config.max_staleness + 1) * section.fragments_per_update
    idle = bound < section.lanes
    text = f"{section.lanes} lanes over {config.rollout.workers} worker(s)"
    if actors := config.rollout.inference.actors:
        waits = section.halves == 1
        yield Requirement(
            subject="inference",
            text=f"{actors} actor(s) act for {config.rollout.workers} worker(s), {config.rollout.slots} rows at a time",
            status="WARN" if waits else "OK",
            remedy="environments stand still while their answer is on its way: set environment.halves=2"
            if waits
            else "",
        )
    yield Requirement(
        subject="lanes",
        text=f"{text}, {section.fragment_length} steps a fragment",
        status="WARN" if idle else "OK",
        remedy=f"only {bound} fragments may be in flight: lower environment.lanes or raise max_staleness"
        if idle
        else "",
    )


def _language(config: RunConfig) -> Iterator[Requirement]:
    resolve(ENGINES, config.engine, "engine")
    if config.engine in CHECKS:
        resolve(CHECKS, config.engine, "engine")(config.engines.get(config.engine, {}))
    build_program(config.rollout.program)
    stream, held_out = build_tasks(config.tasks, config.seed)
    found = len(held_out.first(config.eval.tasks))
    yield Requirement(
        subject="tasks",
        text=f"{stream.name}: {stream.tasks_per_epoch:,} training tasks per epoch, {found} held out for evaluation",
        status="OK" if found == config.eval.tasks else "WARN",
        remedy="" if found == config.eval.tasks else f"lower eval.tasks to {found}, or raise tasks.held_out_fraction",
    )
    rollout = config.rollout
    in_flight = rollout.workers * rollout.slots
    yield Requirement(
        subject="generation",
        text=(
            f"{rollout.workers} worker(s) x {rollout.slots} slots = {in_flight} samples side by side; "
            f"{rollout.context_length} tokens per slot, completions of at most {rollout.max_completion_length}"
        ),
        status="OK" if in_flight <= config.batch.samples * (config.max_staleness + 1) else "WARN",
        remedy=""
        if in_flight <= config.batch.samples * (config.max_staleness + 1)
        else "more slots than samples may be in flight: lower rollout.slots or raise max_staleness",
    )

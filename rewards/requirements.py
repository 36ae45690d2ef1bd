"""What the scoring side of a run needs, for `launch.py check`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from buffers.environment_spec import EnvironmentSpec
from buffers.scores import INTRINSIC
from buffers.transport import HandleSet
from configs.errors import require
from configs.plan import Requirement
from configs.schema import RunConfig
from rewards import build, build_component, serve
from rewards.base import Sandboxed
from rewards.endpoints.models import model_sets
from rewards.intrinsic import build_model
from rewards.intrinsic.annotators import build_annotator
from rewards.sandbox.program import SandboxError

__all__ = ["requirements"]


def requirements(config: RunConfig, spec: Callable[[], EnvironmentSpec]) -> Iterator[Requirement]:
    """Build the graph and every component as the run would.

    Args:
      spec: returns what a decision policy acts in.

    Raises:
      ConfigError: a component cannot be used.
    """
    components = config.rewards.components
    build(config, {name: HandleSet(name) for name in (*components, INTRINSIC)})
    models = model_sets(config.rewards.models)
    for name, section in components.items():
        component = build_component(section, name, model_pools=models)
        serve(component, section, name=name, rng=random.Random(config.seed)).close()
        yield Requirement(
            subject="reward",
            text=(
                f"{name}: {section.component['target']}, weight {section.weight}, credit to "
                f"{section.credit}, {len(section.transforms)} transforms, {section.replicas} replica(s) x "
                f"{section.concurrency} calls of {section.batch_size} samples, {section.deadline_s:g} s each"
            ),
        )
        if isinstance(component, Sandboxed):
            yield _contained(name, component)
    if config.intrinsic != "none":
        yield _intrinsic(config, spec() if config.is_decision else None)


def _contained(name: str, component: Sandboxed) -> Requirement:
    """Let hostile programs try to get out of the sandbox that the component would use here."""
    try:
        component.require_containment()
    except SandboxError as error:
        remedy = f"check on the hosts of the run, or replace {name} by a reward that runs nothing a model wrote"
        return Requirement(subject="sandbox", text=f"{name}: {error}", status="FAIL", remedy=remedy)
    return Requirement(subject="sandbox", text=f"{name}: hostile programs are contained on this machine")


def _intrinsic(config: RunConfig, spec: EnvironmentSpec | None) -> Requirement:
    model, section = build_model(config, spec), config.exploration
    captions = config.environment.captions.get("target")
    require(
        spec is None or model.needs != "captions" or captions != "none",
        "environment.captions.target",
        captions,
        f"name a captioner with intrinsic={config.intrinsic}, which scores captions",
        "see `launch.py list captions`",
    )
    if not model.asks:
        return Requirement(subject="intrinsic", text=f"{config.intrinsic} of {model.needs}; asks nobody for labels")
    asked = section.annotation
    models = model_sets(config.rewards.models)
    build_annotator(asked, config.seed, model.asks, models)
    who = f"{asked.annotators} x {asked.annotator['target']}, {asked.batch_size} at a time"
    text = f"{config.intrinsic} of {model.needs}, labelled by {who}, budget {asked.budget or 'none'}"
    return Requirement(subject="intrinsic", text=text)

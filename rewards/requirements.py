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
from rewards import build, build_server
from rewards.intrinsic import build_model
from rewards.intrinsic.annotators import build_annotator

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
    for name, section in components.items():
        build_server(section, name=name, rng=random.Random(config.seed)).close()
        yield Requirement(
            subject="reward",
            text=(
                f"{name}: {section.component['target']}, weight {section.weight:g}, {section.replicas} replica(s) x "
                f"{section.concurrency} calls of {section.batch_size} samples, {section.deadline_s:g} s each"
            ),
        )
    if config.intrinsic != "none":
        yield _intrinsic(config, spec() if config.is_decision else None)


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
    build_annotator(asked, config.seed, model.asks)
    who = f"{asked.annotators} x {asked.annotator['target']}, {asked.batch_size} at a time"
    text = f"{config.intrinsic} of {model.needs}, labelled by {who}, budget {asked.budget or 'none'}"
    return Requirement(subject="intrinsic", text=text)

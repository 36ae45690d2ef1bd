"""What the scoring side of a run needs, for `launch.py check`."""

from __future__ import annotations

import random
from collections.abc import Iterator

from buffers.scores import INTRINSIC
from buffers.transport import HandleSet
from configs.plan import Requirement
from configs.schema import RunConfig
from rewards import build, build_server

__all__ = ["requirements"]


def requirements(config: RunConfig) -> Iterator[Requirement]:
    """Build the graph and every component as the run would.

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

"""The configuration that a run folder records, and what a resumed run must share with it.

Weights, trajectories and scores of a run are one record: what they depend on stays as it is from start to end.
How many members do the work, by when, for how much, and what is shown may change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.load import dump_config, load_config
from configs.schema import RunConfig

__all__ = ["record_config"]

SHARED = (
    "seed", "engine", "model", "environment", "policy", "intrinsic", "intrinsics", "exploration", "tasks", "batch",
    "rollout", "rewards", "learner", "warm_start",
)  # fmt: skip
"""Settings and sections that decide what is sampled, scored and learned."""
FREE = {
    "workers", "threads", "num_cpus", "num_gpus", "max_restarts", "message_samples", "message_wait_s", "max_delay_s",
    "replicas", "concurrency", "deadline_s", "retries", "breaker_failures", "breaker_reset_s", "update_deadline_s",
    "max_nonfinite_updates", "placement", "scaling", "inference", "annotators", "budget", "halves", "step_deadline_s",
    "eval_episodes", "eval_greedy", "url",
}  # fmt: skip
"""Settings and sections within those that say who does it, by when, and for how much; and evaluations."""


def record_config(config: RunConfig, run_folder: Path) -> None:
    """Write `config.yaml` of a run; a resumed run replaces it.

    Raises:
      ConfigError: the run was begun with another value of a setting that cannot change; nothing is written.
    """
    path = run_folder / "config.yaml"
    if path.exists():
        before, now = (dict(_shared(c)) for c in (load_config([path], []), config))
        for key in sorted(before.keys() | now.keys()):
            was, wanted = (repr(values[key]) if key in values else "no value" for values in (before, now))
            if was != wanted:
                raise ConfigError(
                    f"{key} is {wanted}; the run in {run_folder} was begun with {was}, and a resumed run "
                    "learns on as it began; give that value, or start a new run with another name="
                )
    dump_config(config, path)


def _shared(config: RunConfig) -> Iterator[tuple[str, Any]]:
    values = dataclasses.asdict(config)
    return _leaves({name: values[name] for name in SHARED}, "")


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every setting that is not free."""
    for key, value in tree.items():
        if key in FREE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

"""Environments: what decision policies act in.

A backend turns a section of YAML into `Lanes`: `size` places of one worker that step side by side.
A captioner turns steps into text. To add one, write a class with the contract in `base.py` and name it
in the YAML as "module:Class", or give it a line in a table below.
"""

from __future__ import annotations

from actors.environments.base import Captioner, Lanes
from buffers.environment_spec import EnvironmentSpec
from configs.decision import EnvironmentConfig
from configs.errors import ConfigError, nearest
from configs.registry import construct

__all__ = ["CAPTIONS", "ENVIRONMENTS", "build", "describe"]

ENVIRONMENTS = {
    "gymnasium": "actors.environments.gymnasium_lanes:GymnasiumLanes",
    "envpool": "actors.environments.envpool_lanes:EnvPoolLanes",
}
CAPTIONS = {
    "none": "actors.environments.captions:no_captions",
    "info": "actors.environments.captions:InfoCaptions",
    "minigrid": "actors.environments.minigrid:MiniGridCaptions",
    "nethack": "actors.environments.nethack:NetHackCaptions",
}


def build(section: EnvironmentConfig, size: int, seed: int) -> Lanes:
    """Return `size` places of the configured environment, none of them begun.

    Args:
      seed: of backends that seed themselves when they are built; the others take every episode's own.

    Raises:
      ConfigError: a setting is wrong, or the environment cannot be built.
    """
    captioner: Captioner | None = construct(CAPTIONS, section.captions, "environment.captions")
    lanes: Lanes = construct(
        ENVIRONMENTS, section.backend, "environment.backend",
        size=size, seed=seed, halves=section.halves, captioner=captioner,
    )  # fmt: skip
    for name in captioner.needs if captioner else ():
        if name not in lanes.spec.observations:
            lanes.close()
            raise ConfigError(
                f"environment.captions reads the observation {name!r}, which is not shown"
                f"{nearest(name, lanes.spec.observations)}"
            )
    return lanes


def describe(section: EnvironmentConfig) -> EnvironmentSpec:
    """Return what the configured environment shows and takes; builds one instance and closes it."""
    lanes = build(section, 1, 0)
    try:
        return lanes.spec
    finally:
        lanes.close()

"""One Gymnasium environment by id, without the wrappers that only cost time."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import gymnasium

from configs.errors import ConfigError, nearest
from configs.registry import Section, construct

__all__ = ["FAMILIES", "WRAPPERS", "make_instance", "unknown_id"]

WHERE = "environment.backend"
FAMILIES: Mapping[str, str] = {
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "NetHack": "nle",
    "MiniHack-": "minihack",
    "ALE/": "ale_py",
}
"""How an id begins -> the package whose import makes it known. Others: `id: my_module:MyEnvironment-v0`."""
WRAPPERS: Mapping[str, str] = {}
"""Wrappers by name; any other as "module:Class"."""


def make_instance(id: str, options: Mapping[str, Any], wrappers: Sequence[Section]) -> gymnasium.Env[Any, Any]:
    """Return a fresh environment in its wrappers, the first one innermost.

    Raises:
      ConfigError: the id is not known, its package is missing, or an option or wrapper is refused.
    """
    spec = copy.deepcopy(_find(id))
    # These two guard against mistakes in a user's own loop, and cost time in every step.
    spec.order_enforce, spec.disable_env_checker = False, True
    try:
        instance = gymnasium.make(spec, **options)
    except (TypeError, ImportError, gymnasium.error.Error) as error:
        raise ConfigError(f"{WHERE}: {id} cannot be made with options {dict(options)}: {error}") from error
    for n, section in enumerate(wrappers):
        instance = construct(WRAPPERS, section, f"{WHERE}.wrappers[{n}]", env=instance)
    return instance


def _find(id: str) -> gymnasium.envs.registration.EnvSpec:
    module, _, name = id.rpartition(":")
    module = module or next((package for prefix, package in FAMILIES.items() if id.startswith(prefix)), "gymnasium")
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{WHERE}.id is {id!r}, which needs the module {module}: {error}; install it (`pip install -e '.[envs]'` "
            "brings gymnasium, minigrid, nle and envpool)"
        ) from error
    if name not in gymnasium.registry:
        raise unknown_id(id, name, gymnasium.registry)
    return gymnasium.registry[name]


def unknown_id(id: str, name: str, known: Collection[str]) -> ConfigError:
    """Return the error of an id that no environment has; of hundreds of ids it names those alike."""
    alike = difflib.get_close_matches(name, known, n=8, cutoff=0.3)
    return ConfigError(f"{WHERE}.id is {id!r}, which no environment has{nearest(name, alike)}")

"""One Gymnasium environment by id, without the wrappers that only cost time."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from configs.errors import ConfigError, nearest
from configs.registry import Section, construct

__all__ = ["FAMILIES", "WRAPPERS", "Family", "make_instance", "unknown_id"]

WHERE = "environment.backend"


@dataclass(frozen=True)
class Family:
    """Environments of one package."""

    module: str
    """Its import makes the ids known."""
    wrapper: str | None = None
    """What puts it right, innermost, without being asked for."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that it is made with unless the section says otherwise."""


NETHACK = "actors.environments.nethack:NetHackGame"
FAMILIES = {
    "MiniGrid-": Family("minigrid"),
    "BabyAI-": Family("minigrid"),
    # Without this the phase of the moon, hence a seed's game, follows today's date.
    "NetHack": Family("nle", NETHACK, {"fix_moon_phase": True}),
    "MiniHack-": Family("minihack", NETHACK, {"fix_moon_phase": True}),
    "ALE/": Family("ale_py"),
    "Crafter": Family("actors.environments.crafter"),
}
"""How an id begins -> its family. Others: `id: my_module:MyEnvironment-v0`, where importing my_module registers it."""
WRAPPERS: Mapping[str, str] = {
    "nethack": "actors.environments.nethack:NetHackView",
}
"""Wrappers by name; any other as "module:Class"."""


def make_instance(id: str, options: Mapping[str, Any], wrappers: Sequence[Section]) -> gymnasium.Env[Any, Any]:
    """Return a fresh environment in its wrappers, the first one innermost.

    Raises:
      ConfigError: the id is not known, its package is missing, or an option or wrapper is refused.
    """
    family = _family(id)
    spec = copy.deepcopy(_find(id, family.module))
    # These two guard against mistakes in a user's own loop, and cost time in every step.
    spec.order_enforce, spec.disable_env_checker = False, True
    try:
        instance = gymnasium.make(spec, **{**family.options, **options})
        if family.wrapper:
            instance = construct({}, family.wrapper, WHERE, env=instance)
        for n, section in enumerate(wrappers):
            instance = construct(WRAPPERS, section, f"{WHERE}.wrappers[{n}]", env=instance)
    except (TypeError, ImportError, gymnasium.error.Error) as error:
        raise ConfigError(f"{WHERE}: {id} cannot be made with options {dict(options)}: {error}") from error
    return instance


def _family(id: str) -> Family:
    module = id.rpartition(":")[0]
    found = (family for prefix, family in FAMILIES.items() if id.startswith(prefix))
    return Family(module) if module else next(found, Family("gymnasium"))


def _find(id: str, module: str) -> gymnasium.envs.registration.EnvSpec:
    name = id.rpartition(":")[2]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{WHERE}.id is {id!r}, which needs the module {module}: {error}; install it (`pip install -e '.[envs]'` "
            "brings gymnasium, minigrid, nle and envpool, '.[more-envs]' minihack, crafter and ale-py)"
        ) from error
    if name not in gymnasium.registry:
        raise unknown_id(id, name, gymnasium.registry)
    return gymnasium.registry[name]


def unknown_id(id: str, name: str, known: Collection[str]) -> ConfigError:
    """Return the error of an id that no environment has; of hundreds of ids it names those alike."""
    alike = difflib.get_close_matches(name, known, n=8, cutoff=0.3)
    return ConfigError(f"{WHERE}.id is {id!r}, which no environment has{nearest(name, alike)}")

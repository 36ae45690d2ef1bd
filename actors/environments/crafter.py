"""Crafter (arXiv:2109.06780), which speaks Gym's old interface, as Gymnasium environments. Importing registers them.

Captions (`captions: {target: info}`) are its achievements: "you collect wood", "you defeat zombie".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import crafter
import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["Crafter"]


class Crafter(gymnasium.Env[Any, Any]):
    """Crafter with seeds per episode, and death told apart from running out of time."""

    def __init__(self, reward: bool = True, length: int = 10_000, size: int = 64) -> None:
        self._game = crafter.Env(reward=reward, length=length, size=(size, size), seed=0)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._game.action_names))
        self._achieved: Mapping[str, int] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Generate the world of a seed."""
        super().reset(seed=seed)
        if seed is not None:
            # Crafter derives a world from its seed and the ordinal of the episode, and takes a seed only when built.
            self._game._seed, self._game._episode = seed, 0
        self._achieved = {}
        return self._game.reset(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Step, and name what was achieved with it."""
        observation, reward, done, info = self._game.step(action)
        achieved = info["achievements"]
        news = [name for name, count in achieved.items() if count > self._achieved.get(name, 0)]
        self._achieved = achieved
        info["caption"] = " and ".join(f"you {name.replace('_', ' ')}" for name in news)
        dead = info["discount"] == 0
        return observation, reward, dead, done and not dead, info


gymnasium.register("CrafterReward-v1", f"{__name__}:Crafter")
gymnasium.register("CrafterNoReward-v1", f"{__name__}:Crafter", kwargs={"reward": False})

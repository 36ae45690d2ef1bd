"""Environments and networks that every measured system shares: same observation vector, same actions, same sizes.

    cartpole   CartPole-v1                     4 floats
    minigrid   MiniGrid-DoorKey-5x5-v0       147 floats: the 7x7x3 view divided by 10
    nle        NetHackScore-v0               364 floats: 27 of blstats, a 9x9 crop of glyphs, 256 of the message

Peers are run as files, each by its own interpreter: they import nothing of headrace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

__all__ = ["ENVIRONMENTS", "HIDDEN", "make"]

HIDDEN = {"cartpole": (64, 64), "minigrid": (64, 64), "nle": (256, 256)}
"""Units of the two tanh layers that policy and value share."""
Vector = NDArray[np.float32]
CROP = 4
"""Cells on each side of the hero."""
GLYPHS = 5976
BLANK = 2359
"""The glyph of unlit stone, shown beyond the map."""


class MiniGridVector(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
    """The image of a MiniGrid environment as numbers in [0, 1.1]."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0.0, 2.0, (147,), np.float32)

    def observation(self, observation: dict[str, Any]) -> Vector:
        return (observation["image"].reshape(-1) / 10.0).astype(np.float32)


class NetHackVector(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
    """Scaled blstats [27], glyphs around the hero [81] and the message [256]."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (364,), np.float32)
        self._map = np.full((21 + 2 * CROP, 79 + 2 * CROP), BLANK, np.int16)

    def observation(self, observation: dict[str, Any]) -> Vector:
        stats, out = observation["blstats"], np.empty(364, np.float32)
        np.clip(stats * BLSTATS_SCALE, -5, 5, out=out[:27], casting="unsafe")
        self._map[CROP : CROP + 21, CROP : CROP + 79] = observation["glyphs"]
        x, y = int(stats[0]), int(stats[1])
        out[27:108] = self._map[y : y + 2 * CROP + 1, x : x + 2 * CROP + 1].reshape(-1) / GLYPHS
        out[108:] = observation["message"] / 255.0
        return out


BLSTATS_SCALE = np.array(
    [1 / 79, 1 / 21, 0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0, 0.1, 0.1, 0, 1e-3, 0.1, 0.1, 0.1, 0, 0.1, 0.01, 1e-3, 1, 0.1]
    + [0] * 4,
    np.float32,
)


def cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")


def minigrid() -> gymnasium.Env[Any, Any]:
    import minigrid  # noqa: F401, registers its environments

    return MiniGridVector(gymnasium.make("MiniGrid-DoorKey-5x5-v0"))


def nle() -> gymnasium.Env[Any, Any]:
    import nle  # noqa: F401, registers its environments

    return NetHackVector(gymnasium.make("NetHackScore-v0", observation_keys=("glyphs", "blstats", "message")))


ENVIRONMENTS: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "cartpole": cartpole,
    "minigrid": minigrid,
    "nle": nle,
}


def make(name: str) -> gymnasium.Env[Any, Any]:
    """Return a fresh environment by its short name."""
    return ENVIRONMENTS[name]()

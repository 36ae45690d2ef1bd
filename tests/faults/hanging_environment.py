"""An environment that stops answering once in each of several ways, wherever and whenever it gets to it first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

FOREVER_S = 3600.0
EPISODE = 50


class Hanging(gymnasium.Env[Any, Any]):
    """Counts to fifty; hangs where `folder` holds files that say how: sleep, spin (reset: in `reset`)."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder: str) -> None:
        self._folder, self._at = Path(folder), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._at = 0
        self._hang("reset")
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._at += 1
        self._hang("sleep")
        self._hang("spin")
        return self._seen(), float(action), False, self._at == EPISODE, {}

    def _hang(self, how: str) -> None:
        try:
            (self._folder / how).unlink()  # whoever removes it, hangs
        except FileNotFoundError:
            return
        while True:
            if how != "spin":
                time.sleep(FOREVER_S)

    def _seen(self) -> Any:
        return np.array([self._at / EPISODE, 1.0], np.float32)


gymnasium.register("Hanging-v0", entry_point=Hanging)

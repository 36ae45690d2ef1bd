"""NetHack (NLE) and MiniHack: seeds, honest ends of episodes, messages, and what a policy is shown.

Dimensions: L places, C cells across the crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from buffers.environment_spec import Observations

__all__ = ["NetHackCaptions", "NetHackGame", "NetHackView"]

Instance: TypeAlias = "gymnasium.Env[Any, Any]"
Arrays = dict[str, NDArray[Any]]

STATUS = {
    "x": 1 / 79, "y": 1 / 21, "strength percentage": 0, "strength": 0.1, "dexterity": 0.1, "constitution": 0.1,
    "intelligence": 0.1, "wisdom": 0.1, "charisma": 0.1, "score": 0, "hit points": 0.1, "max hit points": 0.1,
    "depth": 0, "gold": 0.001, "energy": 0.1, "max energy": 0.1, "armour class": 0.1, "monster level": 0,
    "experience level": 0.1, "experience points": 0.01, "time": 0.001, "hunger": 1, "burden": 0.1,
    "dungeon": 0, "level": 0, "condition": 0, "alignment": 0,
}  # fmt: skip
"""Fields of blstats in NLE's order and what each is multiplied by, as in NLE's baselines; 0 hides a field."""
GLYPHS, NOTHING, BOUND = 5976, 2359, 5.0
"""Number of glyphs; the glyph of unlit stone, shown beyond the map; largest scaled status."""


class NetHackGame(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Every NLE and MiniHack instance: seeded, and its last observation, message and end told apart.

    NLE presses space and escape where the game waits for them, which wipes the message off the line, and it quits
    an unfinished game before it returns, which wipes the last observation: here both are kept.
    """

    kept = b"stair"
    """An earlier message with this word is not replaced by what follows it, as in arXiv:2410.23022's code."""

    def __init__(self, env: Instance) -> None:
        super().__init__(env)
        self._game: Any = env.unwrapped
        self._success = getattr(self._game.StepStatus, "TASK_SUCCESSFUL", None)
        self._last: Arrays | None = None
        self._press, self._game._perform_known_steps = self._game._perform_known_steps, self._press_on
        self._quit, self._game._quit_game = self._game._quit_game, self._remember_and_quit

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Begin the game of a seed; NLE's own `reset(seed)` ignores it."""
        if seed is not None:
            self._game.seed(core=seed, disp=seed, reseed=False)
        self._last = None
        return self.env.reset(options=options)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Step; an aborted game is truncated and not terminated."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated and self._success is not None:
            info["success"] = info["end_status"] == self._success
        if self._last is None:
            return observation, reward, terminated, truncated, info
        aborted = info["end_status"] == self._game.StepStatus.ABORTED
        return self._last, reward, not aborted, aborted, info

    def _press_on(self, observation: Sequence[NDArray[Any]], done: bool, exceptions: bool = True) -> Any:
        message = observation[self._game._message_index]
        # Of NLE's internal flags, the one that says that the game waits for a space.
        waited = message.tobytes() if observation[self._game._internal_index][3] else b""
        outcome = self._press(observation, done, exceptions)
        if self.kept in waited or not message[0]:
            message[: len(waited)] = np.frombuffer(waited, np.uint8)
        return outcome

    def _remember_and_quit(self, observation: Sequence[NDArray[Any]], done: bool) -> None:
        shown = self._game._get_observation(observation)
        self._last = {name: array.copy() for name, array in shown.items()}
        self._quit(observation, done)


class NetHackView(gymnasium.ObservationWrapper[Any, Any, Any]):
    """What a policy sees of NetHack: glyphs around the hero [C, C], scaled status [27] and the message's bytes [256].

    `flat` joins them in one array of 27 + C * C + 256 floats, glyphs and bytes divided by their largest values.
    """

    def __init__(self, env: Instance, crop: int = 9, flat: bool = False) -> None:
        super().__init__(env)
        if crop < 1 or crop % 2 == 0:
            raise ValueError(f"crop is {crop}; it must be odd, so that the hero stands in the middle")
        self._crop, self._flat, self._scale = crop, flat, np.array(list(STATUS.values()), np.float32)
        margin = crop // 2
        self._map = np.full((21 + 2 * margin, 79 + 2 * margin), NOTHING, np.int16)
        self._inside = self._map[margin : margin + 21, margin : margin + 79]
        status = spaces.Box(-BOUND, BOUND, (len(STATUS),), np.float32)
        parts = {
            "glyphs": spaces.Box(0, GLYPHS, (crop, crop), np.int16),
            "blstats": status,
            "message": spaces.Box(0, 255, (256,), np.uint8),
        }
        whole = spaces.Box(-BOUND, BOUND, (len(STATUS) + crop * crop + 256,), np.float32)
        self.observation_space = whole if flat else spaces.Dict(parts)

    def observation(self, observation: Arrays) -> Any:
        """Crop, scale and, for `flat`, join."""
        status = observation["blstats"]
        scaled = np.minimum(np.maximum(status.astype(np.float32) * self._scale, -BOUND), BOUND)
        self._inside[:] = observation["glyphs"]
        x, y = status[:2].tolist()
        glyphs = self._map[y : y + self._crop, x : x + self._crop]
        if not self._flat:
            return {"glyphs": glyphs, "blstats": scaled, "message": observation["message"]}
        return np.concatenate([scaled, glyphs.ravel() / GLYPHS, observation["message"] / 255], dtype=np.float32)


class NetHackCaptions:
    """NetHack's message line: latin-1, without its zero bytes."""

    needs = frozenset({"message"})

    def __call__(
        self,
        before: Observations,
        actions: NDArray[np.float32],
        after: Observations,
        ended: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
    ) -> list[str]:
        """See `Captioner`."""
        return [line.tobytes().replace(b"\0", b"").decode("latin-1") for line in after["message"]]

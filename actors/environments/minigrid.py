"""Captions of MiniGrid and BabyAI from what the agent sees, alike for Gymnasium's and EnvPool's instances.

Dimensions: L places, V cells across the square view.

    image [L, V, V, 3]   (object, colour, state) of the cell `column, row`; the agent looks towards row 0
                         own cell:   column V // 2, row V - 1; it shows what the agent carries
                         cell ahead: column V // 2, row V - 2

Numbers of objects, colours, states and actions: minigrid.core.constants and minigrid.core.actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from buffers.environment_spec import Observations

__all__ = ["MiniGridCaptions"]

DOOR, KEY, BALL, BOX, GOAL, LAVA = 4, 5, 6, 7, 8, 9
OBJECTS = {GOAL: "goal", DOOR: "door", KEY: "key", BALL: "ball", BOX: "box"}
"""What can be told apart and is worth a word, the most interesting first."""
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
PORTABLE = (KEY, BALL, BOX)
OPEN = 0
FORWARD, TOGGLE = 2, 5


@dataclass(frozen=True, kw_only=True)
class MiniGridCaptions:
    """MiniGrid and BabyAI: "you pick up the yellow key", "you open the yellow door", "you reach the goal"."""

    sights: bool = False
    """Where nothing else happened, also "you see a yellow key" of what was not in view before the step."""
    mission: bool = False
    """Begin every caption with the episode's mission."""
    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def __call__(
        self,
        before: Observations,
        actions: NDArray[np.float32],
        after: Observations,
        ended: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
    ) -> list[str]:
        """See `Captioner`."""
        texts = [""] * len(ended)
        if self.sights:
            _tell(texts, _seen(before["image"], after["image"]))
        _tell(texts, _done(before["image"], actions[:, 0].astype(np.int64), after["image"]))
        if self.mission:
            return [f"{info['mission']}: {text}" if text else "" for info, text in zip(infos, texts, strict=True)]
        return texts


def _tell(texts: list[str], events: Iterable[tuple[int, str]]) -> None:
    for place, text in events:
        texts[place] = f"you {text}"


def _done(before: NDArray[np.uint8], actions: NDArray[np.int64], after: NDArray[np.uint8]) -> Iterable[tuple[int, str]]:
    """Yield (place, event) of what the step did: at most one event, since MiniGrid's actions do one thing."""
    middle = before.shape[1] // 2
    (had, faced), (has, faces) = ((view[:, middle, -1], view[:, middle, -2]) for view in (before, after))
    carried, carries = np.isin(had[:, 0], PORTABLE), np.isin(has[:, 0], PORTABLE)
    toggled = actions == TOGGLE
    at_door = toggled & (faced[:, 0] == DOOR) & (faces[:, 0] == DOOR) & (faced[:, 2] != faces[:, 2])
    stepped = actions == FORWARD  # goals and lava can always be entered
    yield from _name("pick up the", carries & ~carried, has)
    yield from _name("drop the", carried & ~carries, had)
    yield from _name("open the", at_door & (faces[:, 2] == OPEN), faces)
    yield from _name("close the", at_door & (faces[:, 2] != OPEN), faces)
    yield from _name("open the", toggled & (faced[:, 0] == BOX) & (faces[:, 0] != BOX), faced)
    yield from ((place, "reach the goal") for place in np.flatnonzero(stepped & (faced[:, 0] == GOAL)).tolist())
    yield from ((place, "step into lava") for place in np.flatnonzero(stepped & (faced[:, 0] == LAVA)).tolist())


def _name(verb: str, where: NDArray[np.bool_], cells: NDArray[np.uint8]) -> Iterable[tuple[int, str]]:
    return ((place, f"{verb} {_thing(*cells[place, :2].tolist())}") for place in np.flatnonzero(where).tolist())


def _thing(kind: int, colour: int) -> str:
    return f"{COLOURS[colour]} {OBJECTS[kind]}"


def _seen(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Iterable[tuple[int, str]]:
    """Yield (place, sight) of what came into view, several things joined."""
    news = _in_view(after) & ~_in_view(before)
    for place in np.flatnonzero(news.any((1, 2))).tolist():
        things = [_thing(k, c) for k in OBJECTS for c in np.flatnonzero(news[place, k]).tolist()]
        yield place, "see " + " and ".join(f"a {thing}" for thing in things)


def _in_view(view: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return [L, 16, 8] whether an object of that kind and colour is worth a word and in view."""
    shown = np.zeros((len(view), 16, 8), np.bool_)
    # What is carried is seen as well: picking up is an event, and having dropped no news.
    cells = view[..., :2].reshape(len(view), -1, 2)
    shown[np.arange(len(view))[:, None], cells[..., 0], cells[..., 1]] = True
    shown[:, [kind for kind in range(16) if kind not in OBJECTS]] = False
    return shown

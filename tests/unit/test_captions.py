"""What captioners say of real steps in MiniGrid (both backends) and NetHack."""

from __future__ import annotations

from typing import Any

import gymnasium
import minigrid  # noqa: F401  registers its environments
import numpy as np
import pytest
from nle.env.tasks import NetHackScore

from actors.environments import build
from actors.environments.base import Lanes
from actors.environments.minigrid import MiniGridCaptions
from actors.environments.nethack import STATUS, NetHackCaptions, NetHackGame, NetHackView
from configs.decision import EnvironmentConfig

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
KEYS = ("glyphs", "blstats", "message")
OPTIONS = {"observation_keys": list(KEYS)}
PLACE = np.arange(1)


def lanes_of(id: str, captions: dict[str, Any], target: str = "gymnasium", **backend: Any) -> Lanes:
    return build(EnvironmentConfig(backend={"target": target, "id": id, **backend}, captions=captions), 1, 0)


def say(lanes: Lanes, *actions: int) -> list[str]:
    said: list[str] = []
    for action in actions:
        lanes.send(PLACE, np.array([[action]], np.float32), [99])
        said += lanes.recv(PLACE).captions
    return said


@pytest.mark.parametrize(
    ("target", "seed", "to_the_door", "through_it"),
    [
        ("gymnasium", 1, [LEFT], [FORWARD, FORWARD, RIGHT]),
        ("envpool", 0, [FORWARD, RIGHT], [FORWARD, FORWARD, RIGHT]),
    ],
)
def test_doorkey_is_told_from_the_key_to_the_goal(
    target: str, seed: int, to_the_door: list[int], through_it: list[int]
) -> None:
    lanes = lanes_of("MiniGrid-DoorKey-5x5-v0", {"target": "minigrid"}, target, keys=["image"])
    lanes.reset(0, seed)
    assert say(lanes, PICKUP, DROP, PICKUP) == [f"you {verb} the yellow key" for verb in ("pick up", "drop", "pick up")]
    assert not any(say(lanes, *to_the_door))
    assert say(lanes, TOGGLE, TOGGLE, TOGGLE) == [f"you {verb} the yellow door" for verb in ("open", "close", "open")]
    assert not any(say(lanes, *through_it))
    assert say(lanes, FORWARD) == ["you reach the goal"]
    lanes.close()


@pytest.mark.parametrize(("target", "seed"), [("gymnasium", 1), ("envpool", 0)])
def test_sights_and_the_mission_are_told_where_asked_for(target: str, seed: int) -> None:
    lanes = lanes_of(
        "MiniGrid-DoorKey-5x5-v0", {"target": "minigrid", "sights": True, "mission": True}, target, keys=["image"]
    )
    lanes.reset(0, seed)
    said = say(lanes, PICKUP, LEFT, LEFT, LEFT, LEFT)
    mission = "use the key to open the door and then get to the goal: "
    assert said[0] == f"{mission}you pick up the yellow key"
    # Turned all the way round, the door goes out of sight and comes back; the key is carried, which is no sight.
    assert [text for text in said[1:] if text] == [f"{mission}you see a yellow door"]
    lanes.close()


def truth(game: Any, action: int) -> str:
    """What an action does, from MiniGrid's own state and not from a view: step it, and compare."""
    before, carried = tuple(game.front_pos), game.carrying
    ahead = game.grid.get(*before)
    was_open = getattr(ahead, "is_open", None)
    _, _, terminated, _, _ = game.step(action)
    if game.carrying is not carried:
        what, verb = (game.carrying, "pick up") if carried is None else (carried, "drop")
        return f"you {verb} the {what.color} {what.type}"
    if was_open is not None and ahead.is_open != was_open:
        return f"you {'open' if ahead.is_open else 'close'} the {ahead.color} door"
    if ahead is not None and ahead.type == "box" and game.grid.get(*before) is not ahead:
        return f"you open the {ahead.color} box"
    if terminated and action == FORWARD and ahead is not None:
        return {"goal": "you reach the goal", "lava": "you step into lava"}[ahead.type]
    return ""


@pytest.mark.parametrize(
    ("id", "episodes", "kinds"),
    [
        ("MiniGrid-DoorKey-5x5-v0", 6, {"pick", "drop", "open", "close", "reach"}),
        ("MiniGrid-LavaGapS5-v0", 60, {"reach", "step"}),
        ("MiniGrid-ObstructedMaze-1Dlhb-v0", 6, {"pick", "drop", "open"}),
        ("BabyAI-UnlockToUnlock-v0", 6, {"pick", "drop", "open"}),
    ],
)
def test_minigrid_is_told_as_its_own_state_has_it(id: str, episodes: int, kinds: set[str]) -> None:
    game, rng, told = gymnasium.make(id, disable_env_checker=True).unwrapped, np.random.default_rng(1), set()
    for episode in range(episodes):
        seen = game.reset(seed=episode)[0]["image"]
        for _ in range(300):
            # Actions that change something, more often than their share.
            action = int(rng.choice([LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE], p=[0.1, 0.1, 0.4, 0.15, 0.05, 0.2]))
            happened = truth(game, action)
            after, over = game.gen_obs()["image"], happened in ("you reach the goal", "you step into lava")
            said = MiniGridCaptions()(
                {"image": seen[None]}, np.array([[action]], np.float32), {"image": after[None]}, np.array([over]), ({},)
            )
            assert said == [happened]
            told.add((happened.split() or ["", ""])[1])
            seen = after
            if over:
                break
    assert kinds <= told


@pytest.mark.parametrize(("action", "said"), [(TOGGLE, "you open the red door"), (LEFT, "")])
def test_turning_from_a_shut_door_to_an_open_one_opens_nothing(action: int, said: str) -> None:
    before, after = (np.zeros((1, 7, 7, 3), np.uint8) for _ in range(2))
    before[0, 3, 5], after[0, 3, 5] = (4, 0, 1), (4, 0, 0)
    step = np.array([[action]], np.float32), {"image": after}, np.zeros(1, np.bool_), ({},)
    assert MiniGridCaptions()({"image": before}, *step) == [said]


def test_nethack_says_its_message_line() -> None:
    lanes = lanes_of("NetHackScore-v0", {"target": "nethack"}, wrappers=["nethack"], options=OPTIONS)
    lanes.reset(0, 3)
    up, down, eat = 17, 18, 21
    said = say(lanes, up, down, eat)
    # A game begins on the stairs up; the question is declined, as NLE does with those that its tasks do not need.
    assert said[0] == "Beware, there will be no return!  Still climb? [yn] (n) n"
    assert said[1] == "You can't go down here."
    assert said[2].startswith("What do you want to eat? [")
    lanes.close()


def test_bytes_beyond_ascii_are_latin_1_and_zeros_are_left_out() -> None:
    line = np.zeros((1, 256), np.uint8)
    line[0, :7] = [0x43, 0x61, 0x66, 0xE9, 0, 0x21, 0]
    assert NetHackCaptions()({}, np.zeros((1, 1), np.float32), {"message": line}, np.zeros(1, np.bool_), ()) == [
        "Café!"
    ]


def play_nethack(game: Any, seed: int, steps: int) -> list[Any]:
    """Random steps until the end, with what was shown copied: NLE writes into the same arrays again and again."""
    rng, went = np.random.default_rng(seed), [(game.reset(seed=seed)[0], 0.0, False, False, {})]
    for _ in range(steps):
        went[-1] = ({name: array.copy() for name, array in went[-1][0].items()}, *went[-1][1:])
        went.append(game.step(int(rng.integers(23))))
        if went[-1][2] or went[-1][3]:
            break
    return went


def test_a_death_is_terminated_and_keeps_what_was_said_before_the_screen_went_blank() -> None:
    observation, _, terminated, truncated, _ = play_nethack(NetHackGame(NetHackScore(observation_keys=KEYS)), 40, 60)[
        -1
    ]
    assert (terminated, truncated) == (True, False)
    assert observation["message"].tobytes().rstrip(b"\0") == b"The fox bites!"


class Pressed(NetHackScore):
    """A game in which pressing space always leads to "It is dark."."""

    def _perform_known_steps(self, observation: Any, done: bool, exceptions: bool = True) -> Any:
        observation[self._message_index][:] = np.frombuffer(b"It is dark.".ljust(256, b"\0"), np.uint8)
        return observation, done


@pytest.mark.parametrize(
    ("waiting", "shown", "kept"),
    [
        (1, b"You fall down the stairs.", b"You fall down the stairs."),
        (1, b"There is a staircase down here.", b"There is a staircase down here."),
        (1, b"The fox bites!", b"It is dark."),
        (0, b"You fall down the stairs.", b"It is dark."),
    ],
)
def test_word_of_stairs_outlives_the_space_that_the_game_waits_for(waiting: int, shown: bytes, kept: bytes) -> None:
    game: Any = NetHackGame(Pressed(observation_keys=KEYS)).unwrapped
    game.reset()
    now = game.last_observation
    now[game._internal_index][3] = waiting
    now[game._message_index][:] = np.frombuffer(shown.ljust(256, b"\0"), np.uint8)
    observation, _ = game._perform_known_steps(now, False)
    assert observation[game._message_index].tobytes().rstrip(b"\0") == kept
    game.close()


def test_an_aborted_game_is_truncated_and_shows_where_the_hero_stood() -> None:
    short = play_nethack(NetHackGame(NetHackScore(observation_keys=KEYS, max_episode_steps=15)), 3, 60)
    longer = play_nethack(NetHackGame(NetHackScore(observation_keys=KEYS)), 3, 16)
    assert len(short) == 16
    assert short[-1][2:4] == (False, True)
    for key in KEYS:
        np.testing.assert_array_equal(short[-1][0][key], longer[15][0][key])


def test_success_is_what_the_task_says_at_its_end() -> None:
    lanes = lanes_of("NetHackStaircase-v0", {"target": "nethack"}, options=OPTIONS)
    for seed, success, length in ((33, True, 215), (40, False, 22)):
        lanes.reset(0, seed)
        rng = np.random.default_rng(seed)
        for step in range(length):
            lanes.send(PLACE, rng.integers(0, 23, (1, 1)).astype(np.float32), [0])
            steps = lanes.recv(PLACE)
            assert steps.terminated.tolist() == [step == length - 1]
        assert steps.successes == {0: success}
    lanes.close()


def test_the_view_of_nethack_is_centred_on_the_hero_scaled_and_bounded() -> None:
    raw = {
        "glyphs": np.arange(21 * 79, dtype=np.int16).reshape(21, 79),
        "blstats": np.arange(27) * 10,
        "message": np.full(256, 65, np.uint8),
    }
    raw["blstats"][:2] = 2, 1  # near the upper left corner
    game = NetHackScore(observation_keys=KEYS)
    seen = NetHackView(game).observation(raw)
    assert seen["glyphs"].shape == (9, 9)
    assert seen["glyphs"][4, 4] == raw["glyphs"][1, 2]
    assert (seen["glyphs"][:3] == 2359).all()
    assert (seen["glyphs"][:, :2] == 2359).all()
    np.testing.assert_array_equal(seen["glyphs"][3:, 2:], raw["glyphs"][:6, :7])
    fields = dict(zip(STATUS, seen["blstats"].tolist(), strict=True))
    # gold 130 / 1000; 100 hit points / 10 is beyond 5; the score is hidden
    assert [fields[f] for f in ("gold", "hit points", "score")] == pytest.approx([0.13, 5.0, 0.0])
    flat = NetHackView(game, flat=True).observation(raw)
    assert (flat.shape, flat.dtype) == ((364,), np.float32)
    np.testing.assert_array_equal(flat[:27], seen["blstats"])
    np.testing.assert_allclose(flat[27:108], seen["glyphs"].ravel() / 5976, rtol=1e-6)
    np.testing.assert_allclose(flat[108:], 65 / 255, rtol=1e-6)
    game.close()

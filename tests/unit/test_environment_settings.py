"""What an environment section may say, how spaces are read, and what is said of mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from actors.environments import build, describe
from actors.environments.gymnasium_instance import make_instance
from actors.environments.spaces import action_decoder, action_spec, observation_specs
from buffers.environment_spec import ActionSpec, ArraySpec
from configs.decision import EnvironmentConfig
from configs.errors import ConfigError


def columns(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("space", "spec", "given", "taken"),
    [
        (spaces.Discrete(3, start=-1), ActionSpec("discrete", (3,)), columns([0], [2]), [-1, 1]),
        (
            spaces.MultiDiscrete([2, 5], start=[0, 10]),
            ActionSpec("multi_discrete", (2, 5)),
            columns([1, 4], [0, 0]),
            [[1, 14], [0, 10]],
        ),
        (
            spaces.Box(np.array([[-1, 0]], np.float32), np.array([[1, 9]], np.float32)),
            ActionSpec("continuous", (), (-1.0, 0.0), (1.0, 9.0)),
            columns([-3, 3], [0.5, 10]),
            [[[-1, 3]], [[0.5, 9]]],
        ),
    ],
)
def test_actions_are_columns_and_become_members_of_the_space(
    space: Any, spec: ActionSpec, given: np.ndarray, taken: list[Any]
) -> None:
    assert action_spec(space, "here") == spec
    assert spec.columns == given.shape[1]
    decoded = list(action_decoder(space)(given))
    assert [np.asarray(action).tolist() for action in decoded] == taken
    assert all(space.contains(action) for action in decoded)


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Dict(a=spaces.Discrete(2)), spaces.Text(4)])
def test_other_actions_are_refused_by_name(space: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"here: actions are {type(space).__name__}.*Discrete, MultiDiscrete and Box"
    ):
        action_spec(space, "here")


MIXED = spaces.Dict(
    image=spaces.Box(0, 255, (2, 3), np.uint8), wide=spaces.Box(-1, 1, (4,), np.float64),
    direction=spaces.Discrete(4), flags=spaces.MultiBinary(5), mission=spaces.Text(9),
)  # fmt: skip


def test_every_numeric_part_of_a_dict_is_shown_unless_keys_choose() -> None:
    assert observation_specs(MIXED, None, "here") == {
        "image": ArraySpec((2, 3), "uint8"),
        "wide": ArraySpec((4,), "float32"),
        "direction": ArraySpec((), "int64"),
        "flags": ArraySpec((5,), "int8"),
    }
    assert list(observation_specs(MIXED, ["direction", "image"], "here")) == ["direction", "image"]
    assert observation_specs(spaces.Discrete(7), None, "here") == {"observation": ArraySpec((), "int64")}


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (MIXED, ["imag"], r"here.keys has 'imag', .*did you mean 'image'\?"),
        (MIXED, ["mission"], "here.keys has 'mission', which is no array"),
        (spaces.Text(9), None, "here: observations are Text.*wrap it"),
        (spaces.Tuple([spaces.Discrete(2)]), None, "here: observations are Tuple.*wrap it"),
    ],
)
def test_observations_that_are_no_arrays_are_refused(space: Any, keys: list[str] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        observation_specs(space, keys, "here")


def gym(**backend: Any) -> dict[str, Any]:
    return {"target": "gymnasium", "id": "CartPole-v1", **backend}


@pytest.mark.parametrize(
    ("backend", "captions", "message"),
    [
        ({}, "none", "environment.backend.target is missing"),
        ({"target": "gymnasiun", "id": "x"}, "none", "'gymnasiun', which is not known; did you mean 'gymnasium'"),
        ({"target": "gymnasium"}, "none", "lacks id"),
        (gym(id="CartPole-v2"), "none", "id is 'CartPole-v2', which no environment has; did you mean 'CartPole-v1'"),
        (gym(id="MiniGrid-DorKey-5x5-v0"), "none", "did you mean 'MiniGrid-DoorKey-5x5-v0'"),
        (gym(id="nowhere:CartPole-v1"), "none", r"needs the module nowhere: .*pip install -e '.\[envs\]'"),
        (gym(options={"gravity": 3}), "none", "CartPole-v1 cannot be made with options {'gravity': 3}"),
        (gym(wraps=[]), "none", "environment.backend.wraps is not an argument of 'gymnasium'; did you mean 'wrappers'"),
        (gym(wrappers=["nethak"]), "none", r"wrappers\[0\].target is 'nethak', .*did you mean 'nethack'"),
        (gym(wrappers=[{"target": "nethack", "crops": 3}]), "none", r"wrappers\[0\].crops is not an argument"),
        (gym(), "nethak", "environment.captions.target is 'nethak', .*did you mean 'nethack'"),
        (gym(), "nethack", "environment.captions reads the observation 'message', which is not shown"),
        (gym(target="envpool", id="CartPole-v7"), "none", "'CartPole-v7', which no environment has; .*'CartPole-v1'"),
        (gym(target="envpool", options={"gravity": 3}), "none", "CartPole-v1 cannot be made with options .*gravity"),
        (
            gym(target="envpool"),
            "info",
            "environment.captions.target is 'info', but EnvPool's games say nothing",
        ),
    ],
)
def test_mistakes_are_named_with_a_remedy(backend: dict[str, Any], captions: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(EnvironmentConfig(backend=backend, captions={"target": captions}), 2, 0)


def test_even_crops_have_no_middle() -> None:
    backend = {"target": "gymnasium", "id": "NetHackScore-v0", "wrappers": [{"target": "nethack", "crop": 8}]}
    with pytest.raises(ConfigError, match="crop is 8; it must be odd"):
        describe(EnvironmentConfig(backend=backend))


class Halved(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observations times a factor."""

    def __init__(self, env: Any, factor: float = 0.5) -> None:
        super().__init__(env)
        self.factor = factor

    def observation(self, observation: Any) -> Any:
        return observation * self.factor


@pytest.fixture
def plain() -> Iterator[Any]:
    instance = make_instance("CartPole-v1", {}, [])
    yield instance
    instance.close()


def test_wrappers_by_path_are_put_on_from_the_inside_out(plain: Any) -> None:
    wrappers = [f"{__name__}:Halved", {"target": f"{__name__}:Halved", "factor": 4.0}]
    wrapped = make_instance("CartPole-v1", {}, wrappers)
    assert (wrapped.factor, wrapped.env.factor) == (4.0, 0.5)
    np.testing.assert_allclose(wrapped.reset(seed=3)[0], 2 * plain.reset(seed=3)[0])
    wrapped.close()


def test_nothing_but_the_time_limit_is_between_us_and_an_environment(plain: Any) -> None:
    assert isinstance(plain, gymnasium.wrappers.TimeLimit)
    assert plain.env is plain.unwrapped


def test_a_backend_by_path_is_built_like_those_of_the_table() -> None:
    backend = {"target": "actors.environments.gymnasium_lanes:GymnasiumLanes", "id": "CartPole-v1"}
    assert describe(EnvironmentConfig(backend=backend)) == describe(EnvironmentConfig(backend=gym()))

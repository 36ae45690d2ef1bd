"""Fragments for the tests of decision learning: of random numbers, or of real episodes."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec, Observations
from buffers.fragment import Fragment, fragments_to_table
from buffers.identity import Slot
from configs.load import load_config
from configs.schema import RunConfig

VECTOR = EnvironmentSpec("vector", {"position": ArraySpec((3,), "float32")}, ActionSpec("discrete", (4,)))
MIXED = EnvironmentSpec(
    "mixed",
    {"speed": ArraySpec((2,), "float64"), "picture": ArraySpec((7, 7, 3), "uint8"), "way": ArraySpec((), "int64")},
    ActionSpec("multi_discrete", (3, 2)),
)
CONTINUOUS = EnvironmentSpec(
    "continuous", {"position": ArraySpec((3,), "float32")}, ActionSpec("continuous", (), (-1.0, -1.0), (1.0, 1.0))
)
NETHACK = EnvironmentSpec(
    "nethack",
    {
        "glyphs": ArraySpec((9, 9), "int16"),
        "blstats": ArraySpec((27,), "float32"),
        "message": ArraySpec((256,), "uint8"),
    },
    ActionSpec("discrete", (23,)),
)
STEPS = 6

torch.set_num_threads(1)  # tiny networks: a second thread costs more than it gives


@cache
def _configuration(*overrides: str) -> RunConfig:
    return load_config([], ["environment.backend.target=gymnasium", f"environment.fragment_length={STEPS}", *overrides])


def configuration(*overrides: str) -> RunConfig:
    """Return a run in environments, with small fragments."""
    return copy.deepcopy(_configuration(*overrides))


def random_observations(spec: EnvironmentSpec, rng: np.random.Generator, *leading: int) -> Observations:
    """Return observations [*leading, *shape]: normal floats, and integers below 10."""
    arrays: Observations = {}
    for name, array in spec.observations.items():
        shape, kind = (*leading, *array.shape), np.dtype(array.dtype).kind
        drawn: Any = rng.normal(size=shape) if kind == "f" else rng.integers(0, 10, shape)
        arrays[name] = drawn.astype(array.dtype)
    return arrays


def random_fragment(
    spec: EnvironmentSpec, number: int, *, seed: int = 0, steps: int = STEPS, state: int = 0, **fields: Any
) -> Fragment:
    """Return the `number`-th fragment of a seed; `fields` replace what was drawn."""
    rng = np.random.default_rng([seed, number])
    ends = rng.random((2, steps)) < 0.15
    sizes = spec.actions.sizes
    actions = rng.integers(0, sizes, (steps, len(sizes))) if sizes else rng.normal(size=(steps, spec.actions.columns))
    drawn: dict[str, Any] = {
        "observations": random_observations(spec, rng, steps + 1),
        "actions": actions.astype(np.float32),
        "logprobs": (-rng.random(steps) - 0.8).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminated": ends[0],
        "truncated": ends[1],
        "recurrent_state": rng.normal(size=state).astype(np.float32),
    } | fields
    return Fragment(
        slot=Slot(spec.name, 0, number, 0),
        attempt=0,
        versions=[(0, steps)],
        final_observations=random_observations(spec, rng, int(drawn["truncated"].sum())),
        **drawn,
    )


def random_table(spec: EnvironmentSpec, fragments: int = 8, **settings: Any) -> pa.Table:
    """Return random fragments as rows."""
    return fragments_to_table(spec, [random_fragment(spec, number, **settings) for number in range(fragments)])

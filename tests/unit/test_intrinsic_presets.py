"""`intrinsic=` is one key: every reward of the table can be made from the preset as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

import configs
from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from configs.load import load_config
from rewards.intrinsic import INTRINSICS, build_model
from rewards.intrinsic.annotators import build_annotator

PRESET = Path(configs.__file__).parent / "minigrid_oni.yaml"
SPEC = EnvironmentSpec("grid", {"image": ArraySpec((7, 7, 3), "uint8")}, ActionSpec("discrete", (7,)))


@pytest.mark.parametrize("name", INTRINSICS)
def test_the_preset_has_what_each_reward_needs(name: str) -> None:
    config = load_config([PRESET], [f"intrinsic={name}"])
    model = build_model(config, SPEC)
    if model.asks:
        build_annotator(config.exploration.annotation, config.seed, model.asks)
    if model.needs == "captions" and not model.learns:
        paid, unpaid = model.score(["you open the yellow door", "you bump into a wall"])
        assert paid > 0, "the preset's own captions must be paid by its settings"
        assert name == "counts" or unpaid == 0

"""Networks of decision policies and their action distributions.

A policy is a function `(spec, **yaml keys) -> DecisionNetwork`. To add one, write such a function and
name it in `POLICIES`, or give `policy.target=package.module:function` without touching this repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from buffers.environment_spec import EnvironmentSpec
from configs.registry import construct

__all__ = ["POLICIES", "build_policy"]

POLICIES: dict[str, str] = {
    "mlp": "learners.models.decision.mlp:mlp",
    "cnn": "learners.models.decision.cnn:cnn",
    "nethack": "learners.models.decision.nethack:nethack",
}


def build_policy(section: str | Mapping[str, Any], spec: EnvironmentSpec, seed: int) -> nn.Module:
    """Return the `DecisionNetwork` of a section `policy`, on the CPU, in evaluation mode.

    The same section, spec and seed give the same weights; torch's generator is left as it was.

    Raises:
      ConfigError: an unknown policy, or arguments that it refuses or that do not fit the environment.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = construct(POLICIES, section, "policy", spec=spec)
    return network.eval()

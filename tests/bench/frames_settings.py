"""The same environments and networks as the peers', in headrace's own keys."""

from __future__ import annotations

from typing import Any

from tests.bench.peers.environments import HIDDEN

__all__ = ["BACKENDS", "settings"]

Section = dict[str, Any]
PEERS = "tests.bench.peers.environments"
LANES, STEPS, FRAGMENTS = 32, 32, 32
"""Of one worker; of a fragment; of an update."""
BACKENDS: dict[str, dict[str, Section]] = {
    "gymnasium": {
        "cartpole": {"target": "gymnasium", "id": "CartPole-v1"},
        "minigrid": {
            "target": "gymnasium",
            "id": "MiniGrid-DoorKey-5x5-v0",
            "wrappers": [{"target": f"{PEERS}:MiniGridVector"}],
        },
        "nle": {
            "target": "gymnasium",
            "id": "NetHackScore-v0",
            "options": {"observation_keys": ["glyphs", "blstats", "message"]},
            "wrappers": [{"target": f"{PEERS}:NetHackVector"}],
        },
    },
    "envpool": {
        "cartpole": {"target": "envpool", "id": "CartPole-v1"},
        "minigrid": {"target": "envpool", "id": "MiniGrid-DoorKey-5x5-v0", "keys": ["image"]},
    },
}
"""Backend -> environment -> section. EnvPool has no NetHack; its MiniGrid shows the same 147 numbers as bytes."""


def settings(env: str, backend: str, workers: int) -> Section:
    """Return a run's configuration: the peers' network, batch, learning rate and one pass over each batch."""
    return {
        "name": "frames",
        "updates": 10**9,
        "max_staleness": 4,
        "environment": {
            "backend": BACKENDS[backend][env],
            "lanes": LANES * workers,
            "fragment_length": STEPS,
            "fragments_per_update": FRAGMENTS,
            "eval_episodes": 0,
        },
        "policy": {"target": "mlp", "hidden": list(HIDDEN[env]), "value": "shared", "byte_scale": 10},
        "rollout": {"workers": workers, "slots": LANES, "message_samples": LANES, "message_wait_s": 0.2},
        "learner": {"learning_rate": 3e-4, "max_grad_norm": 0.5, "actor_critic": {"returns": {"target": "gae"}}},
        "checkpoint": {"every": 0},
        "logging": {"view": "quiet", "tensorboard": False, "report": False},
    }

"""RLlib 2.60's APPO on two cores, in an interpreter of its own.

    python -m venv rllib && rllib/bin/pip install torch==2.13.0 "ray[rllib]==2.60.0" minigrid psutil
    rllib/bin/pip install --no-deps nle==1.3.0 pybind11
    rllib/bin/python tests/bench/peers/rllib_appo.py --env minigrid [--seconds 60] [--workers 1]

The learner works in the driver; every runner steps 32 environments. Workers keep the niceness of everybody else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, this is how Ray spells it
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

import ray
from environments import HIDDEN, make
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env
from window import BATCH, LANES, LEARNING_RATE, STEPS, Window, parse

REPORT_S = 2
"""Least seconds between two counts of frames."""


def settings(env: str, workers: int) -> APPOConfig:
    network = DefaultModelConfig(fcnet_hiddens=list(HIDDEN[env]), fcnet_activation="tanh", vf_share_layers=True)
    return (
        APPOConfig()
        .environment(env)
        .framework("torch")
        .env_runners(num_env_runners=workers, num_envs_per_env_runner=LANES, rollout_fragment_length=STEPS)
        .learners(num_learners=0, num_gpus_per_learner=0)
        .training(train_batch_size_per_learner=BATCH, lr=LEARNING_RATE)
        .rl_module(model_config=network)
        .reporting(min_time_s_per_iteration=REPORT_S)
    )


def sampled(result: dict[str, Any]) -> int:
    """Return frames stepped so far; it trains on each batch twice, so that trained ones would count double."""
    return int(result.get("env_runners", {}).get("num_env_steps_sampled_lifetime", 0))


def main() -> None:
    options = parse(__doc__, sorted(HIDDEN), workers=1)
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=1 << 30, log_to_driver=False)
    register_env(options.env, lambda _: make(options.env))
    algorithm = settings(options.env, options.workers).build_algo()
    window = Window("rllib_appo", options)
    while not window.closed(sampled(algorithm.train())):
        pass
    window.report()
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()

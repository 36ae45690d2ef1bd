"""Sample Factory 2.1.1's APPO on two cores, in an interpreter of its own.

    python -m venv sf && sf/bin/pip install torch==2.13.0 sample-factory==2.1.1 "minigrid<3" psutil
    sf/bin/pip install --no-deps nle==1.3.0 pybind11
    sf/bin/python tests/bench/peers/sample_factory_appo.py --env minigrid [--seconds 60] [--workers 2]

It asks for its workers to be niced by 10, which on a machine that others use means to be measured idle:
here they keep the niceness of everybody else.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import psutil

psutil.Process.nice = lambda self, value=None: 0
os.environ.setdefault("WANDB_MODE", "disabled")

from environments import ENVIRONMENTS, HIDDEN, make  # noqa: E402
from sample_factory.algo.runners.runner import Runner  # noqa: E402
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args  # noqa: E402
from sample_factory.envs.env_utils import register_env  # noqa: E402
from sample_factory.train import run_rl  # noqa: E402
from window import BATCH, LANES, LEARNING_RATE, STEPS, Window, parse  # noqa: E402


def build(name: str, cfg: Any = None, env_config: Any = None, render_mode: Any = None) -> Any:
    return make(name)


def settings(env: str, workers: int, folder: str) -> list[str]:
    words = {
        "algo": "APPO", "env": env, "experiment": env, "train_dir": folder, "device": "cpu",
        "num_workers": workers, "num_envs_per_worker": LANES, "worker_num_splits": 2,
        "rollout": STEPS, "recurrence": 1, "batch_size": BATCH, "num_batches_per_epoch": 1, "num_epochs": 1,
        "learning_rate": LEARNING_RATE, "use_rnn": False, "async_rl": True, "with_vtrace": False,
        "normalize_input": False, "normalize_returns": False, "nonlinearity": "tanh", "max_policy_lag": 1000,
        "decorrelate_experience_max_seconds": 0, "set_workers_cpu_affinity": False, "with_wandb": False,
        "train_for_env_steps": 10**12, "save_every_sec": 10**6, "experiment_summaries_interval": 30,
    }  # fmt: skip
    return [f"--{key}={value}" for key, value in words.items()] + ["--encoder_mlp_layers", *map(str, HIDDEN[env])]


def main() -> None:
    options = parse(__doc__, sorted(HIDDEN), workers=2)
    for name in ENVIRONMENTS:
        register_env(name, build)
    window = Window("sample_factory_appo", options)
    # Its own --train_for_seconds has no effect in 2.1.1, and the runner asks this after every message.
    Runner._should_end_training = lambda self: window.closed(sum(self.env_steps.values()))
    with tempfile.TemporaryDirectory() as folder:
        words = settings(options.env, options.workers, folder)
        run_rl(parse_full_cfg(parse_sf_args(argv=words)[0], words))
    window.report()


if __name__ == "__main__":
    sys.exit(main())

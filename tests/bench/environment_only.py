"""Frames per second of environments alone, random actions, on every core: the most that any system here can reach.

Plain is Gymnasium's own loop over instances (or EnvPool's own call), lanes are what headrace's workers step.

    python -m tests.bench.environment_only [--seconds 5] [--env minigrid] [--backend gymnasium]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from actors.environments import build
from configs.decision import EnvironmentConfig
from tests.bench.frames_settings import BACKENDS, LANES
from tests.bench.peers.environments import make

WARM_UP = 50
"""Steps that do not count."""


def plain_gymnasium(env: str) -> Callable[[], None]:
    """Return one step of 32 instances."""
    instances = [make(env) for _ in range(LANES)]
    actions = np.random.default_rng(0).integers(instances[0].action_space.n, size=(4096, LANES))  # type: ignore[attr-defined]
    for seed, instance in enumerate(instances):
        instance.reset(seed=seed)
    at = iter(range(1 << 62))

    def step() -> None:
        for instance, action in zip(instances, actions[next(at) % len(actions)].tolist(), strict=True):
            _, _, terminated, truncated, _ = instance.step(action)
            if terminated or truncated:
                instance.reset()

    return step


def plain_envpool(env: str) -> Callable[[], None]:
    """Return one step of 32 environments in EnvPool's synchronous mode, one thread."""
    import envpool

    pool = envpool.make_gymnasium(BACKENDS["envpool"][env]["id"], num_envs=LANES, num_threads=1, seed=0)
    pool.reset()
    actions = np.random.default_rng(0).integers(pool.action_space.n, size=(4096, LANES), dtype=np.int32)
    at = iter(range(1 << 62))
    return lambda: pool.step(actions[next(at) % len(actions)])


def lanes(env: str, backend: str) -> Callable[[], None]:
    """Return one step of 32 places of headrace's lanes."""
    section = EnvironmentConfig(backend=BACKENDS[backend][env], lanes=LANES)
    places, stepped = np.arange(LANES), build(section, LANES, 0)
    for place in range(LANES):
        stepped.reset(place, place)
    actions = np.random.default_rng(0).integers(stepped.spec.actions.sizes[0], size=(4096, LANES, 1)).astype(np.float32)
    at = iter(range(1 << 62))

    def step() -> None:
        n = next(at)
        stepped.send(places, actions[n % len(actions)], range(n * LANES, (n + 1) * LANES))
        stepped.recv(places)

    return step


PLAIN: dict[str, Callable[[str], Callable[[], None]]] = {"gymnasium": plain_gymnasium, "envpool": plain_envpool}


def frames_per_s(env: str, backend: str, ours: bool, seconds: float) -> tuple[float, float]:
    """Return (frames/s, frames per CPU second) of this process."""
    step = lanes(env, backend) if ours else PLAIN[backend](env)
    for _ in range(WARM_UP):
        step()
    began, used, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    frames = steps * LANES
    return frames / (time.perf_counter() - began), frames / (time.process_time() - used)


def measure(env: str, backend: str, seconds: float) -> dict[str, Any]:
    """Measure plain and lanes, each in as many processes as there are cores."""
    cores, line = os.cpu_count() or 1, {"env": env, "backend": backend, "processes": os.cpu_count()}
    for name, ours in (("plain", False), ("lanes", True)):
        with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
            jobs = [pool.submit(frames_per_s, env, backend, ours, seconds) for _ in range(cores)]
            found = [job.result(timeout=seconds + 60) for job in jobs]
        line[f"{name}_frames_per_s"] = round(sum(rate for rate, _ in found))
        line[f"{name}_frames_per_cpu_s"] = round(sum(rate for _, rate in found) / cores)
    return line | {"ratio_per_cpu_s": round(line["lanes_frames_per_cpu_s"] / line["plain_frames_per_cpu_s"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--env", choices=sorted(BACKENDS["gymnasium"]))
    parser.add_argument("--backend", choices=sorted(BACKENDS))
    options = parser.parse_args()
    for backend, environments in BACKENDS.items():
        for env in environments:
            if options.env in (None, env) and options.backend in (None, backend):
                print(json.dumps(measure(env, backend, options.seconds)), flush=True)


if __name__ == "__main__":
    main()

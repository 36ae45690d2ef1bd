"""How far the control plane carries: simulated workers through the real reward server, buffer and ledger.

256 workers, 64 coroutines in each of 4 rollout actors, take 100 ms for a trajectory, 2,560 a second in all; groups of
8 are scored by a real reward server, stored, written to the ledger, composed into batches and committed.

    efficiency        trajectories/s of all workers, over their number times those of one worker alone
    saturation        trajectories/s when a trajectory takes 1 ms
    us_per_trajectory CPU, user and system, of each process for one trajectory
    profile           share of the samples in which a function of that process was on the stack (--profile)

    python -m tests.bench.scale_out [--seconds 20] [--profile]        prints one JSON line
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from actors import ray_adapter
from actors.member import MemberSpec
from buffers.records.audit import audit
from buffers.run_folder import RunFolder
from configs.load import load_config
from configs.registry import Deferred
from configs.schema import RunConfig
from tests.bench.peers.window import tree_cpu_s

PRESET = Path(__file__).parents[2] / "configs" / "smoke.yaml"
HERE = "tests.bench.simulated_workers"
ACTORS, WIDTH, GROUP, LATENCY_S, FASTEST_S = 4, 64, 8, 0.1, 0.001
MESSAGE = 64
"""Trajectories of a message; a single worker's has one group."""
DEADLINE_S, WARM_UP_S = 120.0, 4.0
PROFILED = ("buffer", "reward", "rollout-0", "driver")
FUNCTIONS, SAMPLES_PER_S = 25, 100


def settings(folder: str, workers: int) -> RunConfig:
    """Return a configuration with room for what that many workers hold."""
    groups = max(1, 2 * workers // GROUP)
    words = [f"runs_folder={folder}", f"batch.prompts_per_update={groups}", f"batch.num_generations={GROUP}"]
    return load_config([PRESET], [*words, "max_staleness=8", "rewards.components.correct.concurrency=4"])


async def measure(actors: int, width: int, latency_s: float, seconds: float, profile: bool = False) -> dict[str, Any]:
    """Return the rate of a window, the CPU of each process, and where it went."""
    workers = actors * width
    with tempfile.TemporaryDirectory() as root, RunFolder.create(Path(root) / "bench") as folder:
        config = settings(root, workers)
        message = MESSAGE if workers > 1 else GROUP
        members, pids = await _start(config, folder, actors, width, latency_s, message)
        try:
            found = await _window(members[0], seconds, {psutil.Process().pid: "driver", **pids}, profile)
            await _call(members[0], "drain", "end of the measurement")
        finally:
            for member in members:
                member.kill()
        folder.write_run({"status": "stopped"})
        return {"workers": workers, **found, "books": audit(folder.path).totals}


async def _start(
    config: RunConfig, folder: RunFolder, actors: int, width: int, latency_s: float, message: int
) -> tuple[list[Any], dict[int, str]]:
    """Return the buffer and the other members, and what each process is called."""
    tasks, graph = Deferred("tests.bench.buffer_throughput:Tasks", ()), Deferred("rewards:build", (config,))
    section = config.rewards.components["correct"]
    plan = {
        "buffer": Deferred("buffers.host:build", (config, folder.path, folder.epoch, 0, tasks, graph)),
        "reward": Deferred("rewards.member:build", (section, "correct", 0)),
        **{f"rollout-{i}": Deferred(f"{HERE}:worker", (width, latency_s, message)) for i in range(actors)},
    }
    members = {name: ray_adapter.spawn(MemberSpec(pool=name, factory=how), name) for name, how in plan.items()}
    pids = await asyncio.gather(*(member.build(DEADLINE_S) for member in members.values()))
    buffer = members["buffer"]
    for name, member in members.items():
        if name != "buffer":
            await _call(buffer, "attach", "reward.correct" if name == "reward" else "rollout", member)
    await _call(buffer, "record_version", {
        "version": 0, "parent": None, "weights_sha256": "", "trained_digest": "", "num_trained": 0
    })  # fmt: skip
    await _call(buffer, "start")
    return list(members.values()), dict(zip(pids, plan, strict=True))


async def _call(member: Any, method: str, *arguments: Any) -> Any:
    return await member.call(method, *arguments, deadline_s=DEADLINE_S, awaiting=method)


class Learner:
    """Takes batches and no time."""

    def __init__(self, buffer: Any) -> None:
        self._buffer, self._version, self.trained = buffer, 0, 0

    async def learn(self, seconds: float) -> float:
        """Go on for at least so long, from the end of a batch to that of another; return the seconds."""
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            ticket = await _call(self._buffer, "next_batch", self._version, DEADLINE_S)
            table = await _call(self._buffer, "batch_table", self._version)
            await _call(self._buffer, "commit", self._version)
            self._version += 1
            self.trained += table.num_rows
            assert table.num_rows == ticket.samples
        return took


async def _window(buffer: Any, seconds: float, names: Mapping[int, str], profile: bool) -> dict[str, Any]:
    """Return rate and CPU of each process after the warm-up; a profile slows down, so it has a window of its own."""
    learner, root = Learner(buffer), psutil.Process()
    await learner.learn(WARM_UP_S)
    before, learner.trained = tree_cpu_s(root, names), 0
    took = await learner.learn(seconds)
    after = tree_cpu_s(root, names)
    used = {name: 1e6 * (after[name] - before.get(name, 0.0)) / learner.trained for name in after}
    found: dict[str, Any] = {
        "trajectories_per_s": round(learner.trained / took, 1),
        "us_per_trajectory": {name: round(us, 1) for name, us in sorted(used.items()) if us >= 0.5},
        "us_per_trajectory_in_all": round(sum(used.values()), 1),
    }
    if profile:
        with recorded(names, seconds) as shares:
            await learner.learn(seconds + 1.0)
        found["profile"] = shares
    return found


@contextmanager
def recorded(names: Mapping[int, str], seconds: float) -> Iterator[dict[str, dict[str, float]]]:
    """Sample the stacks of processes for some seconds of the block; what is yielded is filled at its end."""
    shares: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        recorders = {}
        for pid, name in names.items():
            if name in PROFILED:
                words = ["-p", str(pid), "-d", str(round(seconds)), "-r", str(SAMPLES_PER_S), "-f", "raw", "-F"]
                command = [str(Path(sys.executable).with_name("py-spy")), "record", *words, "-o", f"{folder}/{name}"]
                recorders[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield shares
        for name, recorder in recorders.items():
            recorder.wait(DEADLINE_S)
            shares[name] = inclusive((Path(folder) / name).read_text())


def inclusive(stacks: str) -> dict[str, float]:
    """Return function -> share of the samples that had it on a stack, the largest first.

    Args:
      stacks: lines "outermost;...;innermost count", as py-spy writes them.
    """
    counts: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        total += int(count)
        counts.update({frame: int(count) for frame in frames.split(";")})
    return {frame: round(count / total, 3) for frame, count in counts.most_common(FUNCTIONS)}


async def measure_all(seconds: float, profile: bool) -> dict[str, Any]:
    alone = await measure(1, 1, LATENCY_S, seconds)
    together = await measure(ACTORS, WIDTH, LATENCY_S, seconds, profile)
    fastest = await measure(ACTORS, WIDTH, FASTEST_S, seconds)
    one, all_of_them = alone["trajectories_per_s"], together["trajectories_per_s"]
    return {
        "efficiency": round(all_of_them / (ACTORS * WIDTH * one), 3),
        "saturation_per_s": fastest["trajectories_per_s"],
        "alone": alone,
        "together": together,
        "saturated": fastest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    ray_adapter.connect(load_config([PRESET], []).cluster, "bench")
    try:
        print(json.dumps(asyncio.run(measure_all(options.seconds, options.profile))))
    finally:
        ray_adapter.leave()


if __name__ == "__main__":
    main()

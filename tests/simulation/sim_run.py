"""`simulate(seed)`: lives of one run under faults until it is finished; safety first, then progress."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sim_checks import check_books, check_buffer, check_disk, check_quarantine
from sim_disk import Disk
from sim_life import Life
from sim_loop import VirtualLoop
from sim_network import Fate, Network
from sim_parts import sampled_tokens
from sim_scenario import REPLAY_MAX_AGE, Scenario
from sim_trace import Trace
from sim_witness import Violation, Witness

from buffers.run_folder import run_key
from configs.errors import RunError
from learners.checkpoint import newest
from learners.publish.shared_memory import remove_segments

__all__ = ["Outcome", "memory_folder", "prove", "simulate"]

REFUSAL = re.compile(r"/run-\d+/.*the disk refuses.*; free the disk, then resume the run")
GRACE_S = 60.0
"""After the world healed: until then, earlier faults may still end a life (missed deadlines)."""
PROGRESS_S = 400.0
"""After the world healed: until then, the run must be finished."""


@dataclass
class Outcome:
    """What a seed led to."""

    seed: int
    hash: str
    """Of every delivered call, answer and fault."""
    lives: int
    virtual_s: float
    trained: dict[int, list[str]]
    """consuming version -> slots, in order"""
    weights: int = 0
    """Fingerprint of the last version."""
    faults: dict[str, int] = field(default_factory=dict)


class World:
    """A run, its lives, and what befalls it."""

    def __init__(self, scenario: Scenario, folder: Path, loop: VirtualLoop) -> None:
        self.scenario, self.folder, self.loop = scenario, folder, loop
        self.rng = random.Random(f"faults {scenario.seed}")
        self.trace = Trace(loop.time)
        self.network = Network(self.trace, self._fate)
        self.disk = Disk()
        self.life: Life | None = None
        self.lives = 0
        self.faults: dict[str, int] = {}
        loop.set_task_factory(self.network.task_factory)
        loop.on_step(self._check)

    @property
    def healed(self) -> bool:
        return self.scenario.calm or self.loop.time() >= self.scenario.faults.heal_at_s

    async def run(self) -> Outcome:
        """Live until the run is finished, then look at what it left."""
        plagues = [asyncio.create_task(plague) for plague in self._plagues()]
        path, witness = self._new_run()
        heal_at = 0.0 if self.scenario.calm else self.scenario.faults.heal_at_s
        try:
            async with asyncio.timeout_at(heal_at + PROGRESS_S):
                while (status := await self._live(path, witness)) != "finished":
                    self.trace.note("life ends:", status)
                    if newest(path / "checkpoints") is None:
                        path, witness = self._new_run()
        except TimeoutError as error:
            awaiting = (host := self.life and self.life.buffer()) and host.stats()["awaiting"]
            raise Violation(f"no end within {PROGRESS_S:g} s after healing; awaiting {awaiting}") from error
        for plague in plagues:
            plague.cancel()
        if not self.scenario.calm:
            check_books(path, witness)
        if witness.killed:
            self.faults["poison"] = witness.killed.total()
        check_quarantine(path, witness, alone=self.scenario.calm)
        lineage = witness.lineage
        slots = {v: [i.rsplit(".", 2)[0] for i in ids] for v, ids in lineage.trained.items()}
        return Outcome(
            self.scenario.seed, self.trace.hash, self.lives, self.loop.time(), slots, lineage.newest, self.faults
        )

    async def _live(self, path: Path, witness: Witness) -> str:
        self.lives += 1
        resume = (path / "run.json").exists()
        life = self.life = Life(
            self.scenario, path, resume=resume, network=self.network, disk=self.disk, witness=witness,
            name=f"life {self.lives}",
        )  # fmt: skip
        self.trace.note("life begins", "resume" if resume else "new")
        try:
            return await life.run()
        except RunError as error:
            self.trace.note("life fails:", str(error).replace(str(path), "RUN"))  # its folder's name is random
            if "the disk refuses" in str(error) and not REFUSAL.search(str(error)):
                raise Violation(f"a full disk ended the run without saying where and what to do: {error}") from error
            if self.loop.time() > self.scenario.faults.heal_at_s + GRACE_S or self.scenario.calm:
                raise Violation(f"the run failed in a healthy world: {error}") from error
            return "failed"
        finally:
            life.kill(linger=partial(self.rng.uniform, 0.0, 5.0) if self.rng.random() < 0.5 else None)
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            if witness.problem is not None:
                raise witness.problem

    def _new_run(self) -> tuple[Path, Witness]:
        path = self.folder / f"run-{self.lives}"
        max_age = REPLAY_MAX_AGE if self.scenario.sampler["target"] == "replay" else None
        tokens = partial(sampled_tokens, self.scenario.seed)
        bounds = {"max_staleness": self.scenario.max_staleness, "replay_max_age": max_age}
        return path, Witness(**bounds, judged=self.scenario.judged, tokens=tokens)

    # -- what befalls it ------------------------------------------------------------------------

    def _plagues(self) -> list[object]:
        faults = self.scenario.faults
        return [
            self._every(faults.kill_every_s, self._kill_member),
            self._every(faults.stall_every_s, self._stall_member),
            self._every(faults.crash_every_s, self._crash),
            self._every(5.0, self._command),
        ]

    async def _every(self, mean_s: float, act: object) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / mean_s))
            if self.healed:
                return
            if self.life is not None and (what := act()):
                self.faults[what] = self.faults.get(what, 0) + 1

    def _kill_member(self) -> str:
        alive = [h for h in self.life.handles if h.process.alive and h.spec.pool in ("rollout", "reward.judge")]
        if not alive:
            return ""
        self.rng.choice(alive).kill()
        return "kill"

    def _stall_member(self) -> str:
        alive = [h for h in self.life.handles if h.process.alive]
        if not alive:
            return ""
        handle = self.rng.choice(alive)
        handle.process.stalled_until = self.loop.time() + self.rng.uniform(0.1, 8.0)
        self.trace.note(handle.name, "stalls")
        return "stall"

    def _crash(self) -> str:
        kind = self.rng.choice(["power cut", "lost driver", "full disk", "lost service"])
        self.trace.note(kind)
        if kind == "power cut":
            self.life.kill()
            self.disk.tear(self.rng)
            check_disk(self.life.path, self.scenario.judged)
        elif kind == "lost driver":
            self.life.kill(linger=partial(self.rng.uniform, 0.0, 5.0))
        elif kind == "lost service":
            services = [h for h in self.life.handles if h.spec.pool in ("buffer", "learner", "supervisor")]
            if services:
                self.rng.choice(services).kill()
        else:
            self.life.port.refusals.append(self.rng.choice([5, 28]))
        return kind

    def _command(self) -> str:
        supervisor, driver = self.life.supervisor, self.life.driver
        if supervisor is None or supervisor.target is None or not driver.alive or not supervisor.process.alive:
            return ""
        command = self.rng.choice(["scale", "pause", "interrupt"])
        self.trace.note("command", command)
        if command == "interrupt" and (handler := self.loop.signal_handlers.get(signal.SIGINT)):
            handler()
        elif command == "scale" and "rollout" in supervisor.target.status()["pools"]:
            supervisor.ref("scale", self.rng.choice(["rollout", "reward.judge"]), self.rng.randint(1, 3))
        elif command == "pause":
            supervisor.ref("request", "pause")
            resume_at = self.loop.time() + self.rng.uniform(0.1, 5.0), self.scenario.faults.heal_at_s + GRACE_S / 2
            for at in resume_at:  # a command can be lost: its user repeats it
                self.loop.call_at(at, supervisor.ref, "request", "resume")
        return command

    def _fate(self, pool: str, method: str, may_lose: bool) -> Fate:
        return self.scenario.fate(self.rng, pool, method, healed=self.healed, may_lose=may_lose)

    def _check(self) -> None:
        host = self.life.buffer() if self.life is not None else None
        if host is not None:
            check_buffer(host, self.scenario)


def simulate(seed: int, *, calm: bool = False) -> Outcome:
    """Run a seed to its end; `calm` leaves the faults out.

    Raises:
      Violation: safety or progress was broken; says how to run the seed alone.
    """
    loop = VirtualLoop(random.Random(f"threads {seed}"))
    with run_folder() as folder:
        world = World(Scenario(seed, calm=calm), folder, loop)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                return runner.run(world.run())
        except Exception as error:
            story = "\n".join(world.trace.last)
            what = f"seed={seed}: {type(error).__name__}: {error}"
            raise Violation(f"{story}\n\n{what}\n{again(seed)}") from error


def prove(seed: int) -> Outcome:
    """Simulate a seed; where timing must change nothing, compare it with the run without faults.

    Raises:
      Violation: as `simulate`.
    """
    outcome = simulate(seed)
    if Scenario(seed).exact:
        calm = simulate(seed, calm=True)
        if (outcome.trained, outcome.weights) != (calm.trained, calm.weights):
            raise Violation(f"seed={seed}: faults changed what was trained: {outcome} against {calm}; {again(seed)}")
    return outcome


def again(seed: int) -> str:
    return f"run it alone: python tests/simulation/simulate.py {seed}"


def memory_folder() -> Path | None:
    """Return a folder in memory, where syncs cost nothing; None where the system has none."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else None


@contextmanager
def run_folder() -> Iterator[Path]:
    """A temporary folder for the runs of one seed."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-sim-", dir=memory_folder()))
    try:
        yield folder
    finally:
        for run in folder.iterdir():
            remove_segments(run_key(run))
        shutil.rmtree(folder)

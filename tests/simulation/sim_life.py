"""One life of a run: from its command line to its end, as `launch.conduct` does it, on simulated parts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sim_disk import Disk, Port, VirtualCommits
from sim_network import Network, Process, SimHandle
from sim_parts import HashEngine, HashRank, WitnessedPublisher, task_stream, tokenizer
from sim_scenario import Scenario
from sim_witness import Witness

import buffers.host
import rewards
import rewards.member
from actors.member import MemberSpec
from actors.programs.single_turn import SingleTurn
from actors.rollouts import Rollouts
from actors.supervisor import Supervisor
from actors.worker import RolloutWorker
from buffers.machine import Machine
from buffers.run_folder import RunFolder, run_key
from buffers.trajectory import Sampling
from configs.registry import Deferred
from learners.host import LearnerHost
from learners.models.weights import Layout
from learners.publish import build as build_publisher
from learners.session import Plan, Session

__all__ = ["Life"]

TASKS = 7  # of one epoch, so that runs go through several
END_S = 10.0


class Life:
    """The processes of one life, and what they are made of."""

    def __init__(
        self, scenario: Scenario, path: Path, *, resume: bool, network: Network, disk: Disk, witness: Witness, name: str
    ) -> None:
        self.config = scenario.config(path, resume=resume)
        self.path, self.port, self.witness = path, Port(disk), witness
        self.scenario, self.network = scenario, network
        self.rng = random.Random(f"{name} of {scenario.seed}")
        self.driver = Process("driver")
        self.supervisor: SimHandle | None = None
        self._first = len(network.handles)

    @property
    def handles(self) -> list[SimHandle]:
        """Handles of all processes but the driver."""
        return self.network.handles[self._first :]

    def buffer(self) -> Any:
        """Return the buffer host, once it is built."""
        return next((h.target for h in self.handles if h.spec.pool == "buffer" and h.process.alive), None)

    async def run(self) -> str:
        """Live; return `finished`, `stopped`, or `killed`; raises what ended the session."""
        task = self.driver.spawn(self._conduct())
        await asyncio.wait({task})
        return "killed" if task.cancelled() else task.result()

    def kill(self, *, linger: Callable[[], float] | None = None) -> None:
        """End the driver, and all other processes at once or some time later, as Ray does after a lost driver."""
        loop = asyncio.get_running_loop()
        self.driver.kill()
        for handle in self.handles:
            if linger is None or handle is self.supervisor:
                handle.kill()
            else:
                loop.call_later(linger(), handle.kill)
        if linger is None:
            self.port.off = True

    async def _conduct(self) -> str:
        opening = RunFolder.open if self.config.resume else RunFolder.create
        with opening(self.path) as folder:
            folder.write_run({"status": "running"})
            spec = MemberSpec(pool="supervisor", factory=Deferred("sim_life:build_supervisor", (self,)))
            supervisor = self.supervisor = self.network.spawn(spec, "supervisor")
            silent = Silent()
            session = Session(
                self.config, self._plan(folder.epoch), supervisor=supervisor, listener=silent, announcer=silent
            )
            status = "failed"
            try:
                await supervisor.build(self.config.cluster.start_deadline_s)
                status = await session.run()
            finally:
                if self.driver.alive:
                    folder.write_run({"status": status})
                    await supervisor.call("close", deadline_s=END_S, awaiting="the end of all members")
            return status

    def _plan(self, epoch: int) -> Plan:
        config = self.config

        def deferred(function: str, *arguments: Any) -> Deferred:
            return Deferred(f"sim_life:{function}", (self, *arguments))

        def workers(receivers: Sequence[Callable[[], Any]]) -> list[tuple[MemberSpec, int]]:
            factory = deferred("build_worker", receivers)
            restarts = config.rollout.max_restarts
            spec = MemberSpec(
                pool="rollout", factory=factory, indexed=True, max_restarts=restarts, attached_to=("buffer",),
                scaling=config.rollout.scaling,
            )  # fmt: skip
            return [(spec, config.rollout.workers)]

        section = config.rewards.components["judge"]
        judge = MemberSpec(
            pool="reward.judge", factory=Deferred("rewards.member:build", (section, "judge", config.seed)),
            max_restarts=section.max_restarts, attached_to=("buffer",), scaling=section.scaling,
        )  # fmt: skip
        return Plan(
            learners=(MemberSpec(pool="learner", factory=deferred("build_learner", epoch), indexed=True), 1),
            buffer=lambda version: MemberSpec(pool="buffer", factory=deferred("build_buffer", epoch, version)),
            rewards=((judge, section.replicas),),
            evaluator=None,
            workers=workers,
        )


class Silent:
    """Nobody looks at progress."""

    def phase(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...
    def update(self, *_: Any) -> None: ...
    def waiting(self, *_: Any) -> None: ...
    def evaluation(self, *_: Any) -> None: ...


def now() -> float:
    return asyncio.get_running_loop().time()


def build_supervisor(life: Life) -> Supervisor:
    return Supervisor(life.config.cluster, life.network.spawn, wall_clock=now)


def build_buffer(life: Life, epoch: int, version: int) -> Any:
    machine = Machine(clock=now, wall_clock=now, files=life.port, commits=partial(VirtualCommits, life.rng))
    tasks = partial(task_stream, TASKS, life.config.seed)
    graph = partial(rewards.build, life.config)
    return buffers.host.build(life.config, life.path, epoch, version, tasks, graph, machine)


def build_worker(life: Life, receivers: Sequence[Callable[[], Any]], seat: int) -> RolloutWorker:
    rollout, seed = life.config.rollout, life.config.seed
    scenario, rng = life.scenario, random.Random(life.rng.random())
    engine = HashEngine(rng, life.witness, step_s=scenario.step_s, broken_share=scenario.broken_share,
        poison_share=scenario.poison_share, silence_s=scenario.silence_s,
    )  # fmt: skip
    sampling = Sampling(max_completion_length=rollout.max_completion_length)
    rollouts = Rollouts(engine, SingleTurn(), tokenizer(), sampling=sampling, seed=seed, wall_clock=now)
    receiver = receivers[seat % len(receivers)]()
    return RolloutWorker(rollouts, receiver, message_samples=rollout.message_samples, idle_s=0.05)


def build_learner(life: Life, epoch: int, rank: int) -> LearnerHost:
    config, lineage = life.config, life.witness.new_learner()
    model = life.path / "model"
    model.mkdir(exist_ok=True)
    learner = HashRank(lineage, config.learner, config.model, model, rank=rank, seed=config.seed)
    layout = Layout.of(learner.first_weights())
    plain = build_publisher(config.publish, name=run_key(life.path), layout=layout, epoch=epoch)
    publisher = WitnessedPublisher(plain, lineage)
    return LearnerHost(learner, config, life.path, publisher=publisher, layout=layout, epoch=epoch, examples=list)

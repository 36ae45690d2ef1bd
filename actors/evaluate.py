"""Evaluation on held-out tasks with one pinned weights version, beside the running stream.

The evaluator has an engine of its own, so the stream's engines never go back to older weights and
never wait. Verdicts come from the same reward servers as the stream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from actors.rollouts import Rollouts, build_rollouts
from buffers.identity import Slot
from buffers.samples import to_samples
from buffers.schema import to_table
from buffers.scores import Sample
from buffers.trajectory import Task, Unit
from buffers.transport import HandleSet, Listening
from configs.errors import ConfigError, DeadlineExceeded
from configs.schema import RunConfig
from learners.models.weights import Layout

__all__ = ["Evaluator", "build"]


class Judged(Protocol):
    value: float | None


class Verdict(Protocol):
    @property
    def total(self) -> float | None: ...
    @property
    def scores(self) -> Mapping[str, Judged]:
        """By component."""
        ...


class Scorer(Protocol):
    """The reward graph."""

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Sample` that some component reads."""
        ...

    async def score(self, samples: Sequence[Sample], version: int) -> Sequence[Verdict]: ...


class Evaluator(Listening):
    """Answers `evaluate(packet)` with the accuracy of the packet's weights."""

    def __init__(
        self,
        rollouts: Rollouts,
        tasks: Sequence[Task],
        *,
        scorer: Scorer,
        called: Iterable[HandleSet] = (),
        deadline_s: float,
        component: str = "",
    ) -> None:
        """Evaluate on `tasks`; one is solved where `component`, or the total without one, is at least 1."""
        self._rollouts, self._tasks, self._scorer = rollouts, tasks, scorer
        super().__init__(*called)
        self._deadline_s, self._component = deadline_s, component

    def ping(self) -> dict[str, Any]:
        return {"version": self._rollouts.engine.version}

    async def evaluate(self, layout: Layout, packet: Any) -> dict[str, float]:
        """Return accuracy (share of tasks that are solved), mean reward, and counts.

        Args:
          packet: one version of the weights, see `learners.publish`; `packet.open(layout)` gives them.

        Raises:
          DeadlineExceeded: the message says how many tasks were missing.
        """
        version, tensors = packet.open(layout)
        self._rollouts.engine.load_weights(version, tensors)
        return await self.measure(version)

    async def measure(self, version: int) -> dict[str, float]:
        """Return the same of the weights that the engine holds; they are called `version`."""
        for index, task in enumerate(self._tasks):
            slot = Slot("eval", 0, index, 0)
            self._rollouts.start(Unit(slot=slot, attempt=version, task=task, min_version=version))
        try:
            async with asyncio.timeout(self._deadline_s):
                while self._rollouts.in_flight:
                    await self._rollouts.step()
                trajectories, failures = self._rollouts.take()
                verdicts = await self._scorer.score(to_samples(to_table(trajectories), self._scorer.needs), version)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"evaluation of version {version}: {self._rollouts.in_flight} of {len(self._tasks)} tasks missing "
                f"after {self._deadline_s:g} s; raise eval.deadline_s or lower eval.tasks"
            ) from error
        valid = [v.total for v in verdicts if v.total is not None]
        return {
            "accuracy": sum(map(self._solved, verdicts)) / len(self._tasks),
            "reward": sum(valid) / max(len(valid), 1),
            "invalid": float(len(verdicts) - len(valid)),
            "failed": float(len(failures)),
            "tasks": float(len(self._tasks)),
            "version": float(version),
        }

    def _solved(self, verdict: Verdict) -> bool:
        if self._component and self._component not in verdict.scores:
            rule = "it must be scored at arrival, and is when: batch; name another, or leave eval.component out"
            raise ConfigError(f"eval.component is {self._component!r}; {rule}")
        value = verdict.scores[self._component].value if self._component else verdict.total
        return value is not None and value >= 1.0

    async def close(self) -> None:
        await self._rollouts.close()


def build(
    config: RunConfig,
    model_folder: Path,
    make_tasks: Callable[[], Sequence[Task]],
    make_scorer: Callable[[dict[str, HandleSet]], Scorer],
) -> Evaluator:
    """Build the evaluator inside its own process."""
    torch.set_num_threads(config.rollout.threads)
    sets = {name: HandleSet(f"reward.{name}") for name in config.rewards.components}
    return Evaluator(
        build_rollouts(config, model_folder, temperature=config.eval.temperature),
        make_tasks(),
        scorer=make_scorer(sets),
        called=sets.values(),
        deadline_s=config.eval.deadline_s,
        component=config.eval.component,
    )

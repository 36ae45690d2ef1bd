"""A stream of fragments, and a reward for novelty that scores their steps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stream_scene import Scene

import rewards
from buffers.batch import Batch
from buffers.batch_scoring import BatchScoring
from buffers.environment_spec import ActionSpec, ArraySpec, EnvironmentSpec
from buffers.fragment import Episode, Fragment, fragments_to_table
from buffers.samples import to_samples
from buffers.scores import ENVIRONMENT, INTRINSIC, Sample, Score, ScoreStatus, component_names
from buffers.trajectory import Unit
from buffers.transport import HandleSet, LocalHandle
from configs.decision import EnvironmentConfig, IntrinsicConfig
from configs.rewarding import RewardComponentConfig, RewardsConfig
from configs.schema import RunConfig

__all__ = ["SPEC", "STEPS", "Lanes", "Novelty", "config", "fragment", "graph", "scored"]

SPEC = EnvironmentSpec("maze", {"o": ArraySpec((2,), "float32")}, ActionSpec("discrete", (3,)))
STEPS = 4


def fragment(unit: Unit, *, reward: float = 1.0, episodes: Sequence[Episode] = (), captions: bool = True) -> Fragment:
    lane = unit.slot.task
    return Fragment(
        slot=unit.slot,
        attempt=unit.attempt,
        observations={"o": np.full((STEPS + 1, 2), lane, np.float32)},
        actions=np.zeros((STEPS, 1), np.float32),
        logprobs=np.full(STEPS, -1.0, np.float32),
        versions=[(0, STEPS)],
        rewards=np.full(STEPS, reward, np.float32),
        terminated=np.zeros(STEPS, np.bool_),
        truncated=np.zeros(STEPS, np.bool_),
        final_observations={},
        captions=[f"lane {lane} step {t}" for t in range(STEPS)] if captions else [],
        episodes=list(episodes),
    )


class Lanes(Scene):
    """The buffer of a decision run: groups of one fragment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, groups=3, members=1)

    def bring(self, graph: Any, *made: dict[str, Any]) -> list[str]:
        """Deliver one fragment for each of `made` and score them at arrival; return their ids."""
        units = self.buffer.lease("w", len(made))
        table = fragments_to_table(SPEC, [fragment(u, **m) for u, m in zip(units, made, strict=True)])
        kept = self.buffer.accept(table)
        assert kept is not None
        self.buffer.generated(kept["id"].to_pylist())
        verdicts = asyncio.run(graph.score(to_samples(kept, graph.needs), 0))
        ids: list[str] = kept["id"].to_pylist()
        self.buffer.scored(dict(zip(ids, verdicts, strict=True)))
        return ids

    def composed(self) -> Batch:
        batch = self.buffer.compose()
        assert batch is not None, self.buffer.awaiting()
        return batch


class Novelty:
    """Gives every step its ordinal, and nothing to a lane named in `silent`."""

    def __init__(self, *silent: str, steps: int = STEPS) -> None:
        self.silent, self.steps, self.seen = silent, steps, list[Sample]()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.seen += samples
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        if any(sample.captions[0].startswith(name) for name in self.silent):
            return Score.invalid(ScoreStatus.TIMEOUT, "late", component=INTRINSIC)
        vector = tuple(float(t) for t in range(self.steps))
        return Score(value=sum(vector), vector=vector, component=INTRINSIC)


def config(scored_at: str = "learner", **components: dict[str, Any]) -> RunConfig:
    return RunConfig(
        environment=EnvironmentConfig(backend={"target": "gymnasium", "id": "CartPole-v1"}, fragment_length=STEPS),
        intrinsic="counts",
        exploration=IntrinsicConfig(scored_at=scored_at, intrinsic_coefficient=0.25),
        rewards=RewardsConfig(components={n: RewardComponentConfig(component=c) for n, c in components.items()}),
    )


def graph(settings: RunConfig, model: object) -> Any:
    pools = {name: HandleSet(name) for name in component_names(settings) if name != ENVIRONMENT}
    pools[INTRINSIC].attach(LocalHandle("intrinsic-0", model))
    return rewards.build(settings, pools)


def scored(lanes: Scene, batch: Batch, wired: Any) -> Batch:
    service = BatchScoring(wired, payloads=lanes.buffer.payloads, log=lanes.ledger)
    return asyncio.run(service.scored(batch, 5.0))

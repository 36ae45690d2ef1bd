"""Lanes of environments and units for them, without a worker around."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actors.environments import build as build_lanes
from actors.lane_rollouts import LaneRollouts, lane_settings
from actors.policy_engine import build_engine
from buffers.identity import Slot
from buffers.messages import Failure
from buffers.trajectory import Task, Unit
from configs.load import load_config
from configs.schema import RunConfig

LANES, STEPS = 6, 20


def settings(*words: str) -> RunConfig:
    base = ["environment.backend.target=gymnasium", "environment.backend.id=CartPole-v1", "rollout.slots=16"]
    sizes = [f"environment.lanes={LANES}", f"environment.fragment_length={STEPS}"]
    return load_config([], [*base, *sizes, *words])


def rollouts(*words: str) -> LaneRollouts:
    config = settings(*words)
    lanes = build_lanes(config.environment, LANES, config.seed)
    return LaneRollouts(build_engine(config, lanes.spec), lanes, **lane_settings(config))


def unit(lane: int, turn: int, attempt: int = 0) -> Unit:
    task = Task(source="env", index=lane, prompt="", answer="")
    return Unit(slot=Slot("env", turn, lane, 0), attempt=attempt, task=task, min_version=0)


async def play(running: LaneRollouts, units: Iterable[Unit]) -> tuple[dict[str, dict[str, Any]], list[Failure]]:
    """Return what came of some units: trajectory id -> row."""
    for one in units:
        running.start(one)
    while running.in_flight:
        await running.step()
    fragments, failures = running.take()
    await running.close()
    table = running.to_table(fragments).drop_columns(["started_at", "finished_at"])
    return {row["id"]: row for row in table.to_pylist()}, failures


def rounds(lanes: Sequence[int], count: int = 3) -> list[Unit]:
    return [unit(lane, turn) for turn in range(count) for lane in lanes]

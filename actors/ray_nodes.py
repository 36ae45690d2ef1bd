"""The nodes of the Ray cluster that this process belongs to: what they have, and what they must share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from configs.errors import DataError, NoRoom, require
from configs.placement import Demand, Resources, shortfall
from configs.schema import RunConfig

__all__ = ["free", "nodes", "require_room", "require_shared"]

ANSWER_S = 60.0
"""For a word from every node; a process starts there first."""


def nodes() -> list[Resources]:
    """Return everything that each live node has, in use or not."""
    return [node["Resources"] for node in _alive()]


def free() -> Mapping[str, float]:
    """Return what the whole cluster has and nobody uses."""
    found: Mapping[str, float] = ray.available_resources()
    return found


def require_room(demands: Sequence[Demand], *, autoscales: bool) -> None:
    """Refuse what the cluster cannot hold even when it holds nothing else.

    Raises:
      NoRoom: says what is short, resource by resource.
    """
    if not autoscales and (short := shortfall(demands, nodes())):
        raise NoRoom(
            f"the cluster has no room: {'; '.join(short)}; add nodes, ask for less, or set cluster.autoscales=true "
            "where nodes join on demand"
        )


async def require_shared(config: RunConfig, run_folder: Path) -> None:
    """See that every node reaches what the members of a run share; one node needs nothing.

    Raises:
      ConfigError: weights are published in a way that stays on one host.
      DataError: a node does not see the run folder.
    """
    alive = _alive()
    if len(alive) < 2:
        return
    backend, rule = config.publish.backend, f"reach all {len(alive)} nodes of the cluster"
    remedy = "set publish.backend=object_store; the others stay on one host"
    require(backend == "object_store", "publish.backend", backend, rule, remedy)
    mark = run_folder / "run.json"
    probes = [ray.remote(_read).options(num_cpus=0, scheduling_strategy=_on(node)).remote(str(mark)) for node in alive]
    answers = await asyncio.gather(*(_answer(probe) for probe in probes))
    blind = [node["NodeManagerAddress"] for node, seen in zip(alive, answers, strict=True) if seen != mark.read_bytes()]
    if blind:
        raise DataError(
            f"run folder {run_folder} is not seen by {', '.join(blind)}; give runs_folder= an absolute path on storage "
            "that all nodes share"
        )


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _on(node: Mapping[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)


def _read(path: str) -> bytes:
    """Return what a node finds at a path; nothing, where there is nothing."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


async def _answer(probe: Any) -> bytes | None:
    """Return what a node read; None where it did not answer."""
    try:
        async with asyncio.timeout(ANSWER_S):
            seen: bytes = await asyncio.wrap_future(probe.future())
            return seen
    except (TimeoutError, RayError):
        return None

"""Do the pools of a run fit on the cluster that it is for? For `launch.py check`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from actors import ray_adapter
from actors.ray_nodes import nodes
from configs.demands import demands
from configs.placement import Demand, Resources, shortfall
from configs.plan import Requirement
from configs.schema import RunConfig

__all__ = ["placement"]


def placement(config: RunConfig) -> Iterator[Requirement]:
    """Compare what the pools take with the nodes there are; those of a running cluster are asked for.

    Raises:
      DataError: the cluster does not answer.
    """
    wanted, cluster = demands(config), config.cluster
    text = "; ".join(_words(demand) for demand in wanted)
    if cluster.address == "local":
        yield Requirement(subject="placement", text=f"all in this process instead of {text}")
        return
    there = _local_node(config) if cluster.address is None else _nodes_of_cluster(config)
    yield Requirement(subject="placement", text=f"{text}; {_sum(there)} on {len(there)} node(s)")
    for line in shortfall(wanted, there):
        remedy = "ask for less, or raise cluster.num_cpus" if cluster.address is None else "ask for less, or add nodes"
        status = "WARN" if cluster.autoscales else "FAIL"
        yield Requirement(subject="placement", text=line, status=status, remedy=remedy)
    if cluster.address is None and (busy := _sum_of("CPU", wanted)) > (machine := os.cpu_count() or 1):
        yield Requirement(
            subject="processors",
            text=f"{busy:g} processors' worth of pools on this machine's {machine}",
            status="WARN",
            remedy="the pools will share processors; fewer workers may be faster",
        )


def _words(demand: Demand) -> str:
    each = ", ".join(f"{amount:g} {name}" for name, amount in demand.each.items())
    where = "" if demand.strategy == "any" or demand.members == 1 else f" ({demand.strategy})"
    return f"{demand.pool} {demand.members} x {each}{where}"


def _local_node(config: RunConfig) -> list[Resources]:
    """Return what a cluster that the run starts by itself has."""
    return [{"CPU": ray_adapter.local_cpus(config.cluster), "GPU": torch.cuda.device_count()}]


def _nodes_of_cluster(config: RunConfig) -> list[Resources]:
    ray_adapter.connect(config.cluster, "headrace-check")
    try:
        return nodes()
    finally:
        ray_adapter.leave()


def _sum(there: Sequence[Resources]) -> str:
    found = {name: sum(node.get(name, 0.0) for node in there) for name in ("CPU", "GPU")}
    return ", ".join(f"{amount:g} {name}" for name, amount in found.items())


def _sum_of(name: str, wanted: Sequence[Demand]) -> float:
    return sum(demand.members * demand.each.get(name, 0.0) for demand in wanted)

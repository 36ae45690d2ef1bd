"""A cluster of one host that a second node joins, and is taken from again as a power cut does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from actors import ray_adapter  # noqa: F401  before Ray: it says what a run expects of a cluster
from tests.faults.live_run import LiveRun

__all__ = ["BOTH", "Nodes", "nodes"]

STORE_BYTES = 128 << 20
BOTH = ("publish.backend=object_store", "rollout.num_cpus=0.5", "rollout.placement.strategy=spread")
"""What a run needs whose rollout workers are to live on two nodes."""


class Nodes:
    """Ray's own `Cluster`, two raylets and two object stores on one host: a head, where the run begins, and a node."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._second: Any = None

    @property
    def words(self) -> tuple[str, ...]:
        """Settings of a run on both nodes."""
        return f"cluster.address={self._cluster.address}", *BOTH

    def join(self) -> None:
        """A second node joins; what has to outlive it is on the head by then."""
        self._second = self._cluster.add_node(num_cpus=8, object_store_memory=STORE_BYTES)

    def cut(self) -> None:
        """The second node is gone, with everything on it, in the middle of its work."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def on_second(self, run: LiveRun) -> set[str]:
        """Return the rollout workers on the second node."""
        raylet = self._second.all_processes["raylet"][0].process.pid
        return {name for name, pid in run.pids("rollout").items() if psutil.Process(pid).ppid() == raylet}


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster of a head alone, which ends with the block."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 12, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()

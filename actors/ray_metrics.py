"""Ray and its metrics: what a run exports to Prometheus, and what Ray's object stores say.

Every node of Ray runs a metrics agent that Prometheus scrapes. Names are those of the run: `pool/<pool>/busy` is
exported as `ray_headrace_pool_busy`; what stands for a placeholder is the label `pool`, beside the label `run`.
All are gauges, also what counts from the start on: a resumed run begins at 0 again. Ray sends values about every
10 seconds (RAY_metrics_report_interval_ms).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.util.metrics import Gauge

from buffers.records.metric_names import exported

__all__ = ["RayGauges", "StoreMeter", "metrics_address"]

LOOK_S = 5.0
"""Shortest time between two questions about object stores: every node answers."""


class RayGauges:
    """Where a `MetricsWriter` also sends metrics; one gauge for each name of the glossary."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def log(self, update: int, metrics: Mapping[str, float], time: float) -> None:
        """Set the gauges; what is not finite leaves its gauge as it was."""
        for name, value in {"update": float(update), **metrics}.items():
            if math.isfinite(value):
                self._set(name, value)

    def close(self) -> None:
        """The agent forgets a process that ended, and its series."""

    def _set(self, logged: str, value: float) -> None:
        name, meaning, labels = exported(logged)
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, meaning, ("run", *labels))
        self._gauges[name].set(value, {"run": self._run, **labels})


class StoreMeter:
    """Follows the object stores of all nodes."""

    def __init__(self) -> None:
        self._looked_s = -math.inf
        self._spilled = 0
        self._figures: dict[str, float] = {}

    async def __call__(self) -> dict[str, float]:
        """Return the share in use, and bytes per second that were spilled since the look before."""
        now = time.monotonic()
        if now < self._looked_s + LOOK_S:
            return self._figures
        used, capacity, spilled = await asyncio.to_thread(_stores)
        rate = max(0, spilled - self._spilled) / (now - self._looked_s)
        self._looked_s, self._spilled = now, spilled
        self._figures = {"object_store/used": used / max(capacity, 1), "object_store/spill_rate": rate}
        return self._figures


def _stores() -> tuple[int, int, int]:
    """Return bytes in use, capacity, and bytes spilled since the cluster began."""
    # Ray has no public call for this; `ray memory` makes the same one.
    address = ray.get_runtime_context().gcs_address
    store = get_memory_info_reply(get_state_from_address(address)).store_stats
    used, free = store.object_store_bytes_used, store.object_store_bytes_avail
    return int(used), int(used + free), int(store.spilled_bytes_total)


def metrics_address() -> str:
    """Return where Prometheus finds the agent of this node, http://HOST:PORT/metrics; empty without ray[default]."""
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node["MetricsExportPort"]:
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return ""

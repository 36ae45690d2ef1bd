"""Where members are started on a Ray cluster: a placement group for each pool that wants one.

    first member of a pool -> room for it at all? -> a group of as many bundles as members start together
    every further one      -> room for one more?  -> a free bundle of the group, or beside it

Ray makes a bundle anew on another node when its own is lost, so a replacement finds its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.util
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.member import MemberSpec
from actors.ray_adapter import RayHandle, spawn
from actors.ray_nodes import free, require_room, require_shared
from configs.demands import demands
from configs.errors import DeadlineExceeded
from configs.placement import Demand
from configs.schema import RunConfig

__all__ = ["PlacedHandle", "PlacingSpawner", "placing"]

LEAST = {"CPU": 0.001}
"""Of a bundle; Ray makes none of nothing."""


class PlacedHandle(RayHandle):
    """A handle in the hands of whoever started the member; everybody else gets a plain one."""

    def __init__(self, plain: RayHandle, demand: Demand, leave: Callable[[], object]) -> None:
        super().__init__(*plain.parts)
        self._demand, self._leave = demand, leave

    async def build(self, deadline_s: float) -> int:
        try:
            return await super().build(deadline_s)
        except DeadlineExceeded as error:
            there = free()
            room = ", ".join(f"{there.get(name, 0.0):g} of {each:g} {name}" for name, each in self._demand.each.items())
            raise DeadlineExceeded(f"{error}; free on the whole cluster: {room or 'all it asks for'}") from error

    def kill(self) -> None:
        super().kill()
        self._leave()


class PlacingSpawner:
    """Starts the members of a run; belongs to the supervisor's process, with which its groups end."""

    def __init__(self, *, autoscales: bool) -> None:
        self._autoscales = autoscales
        self._groups: dict[str, Any] = {}
        self._bundles: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """pool -> member -> bundle of the pool's group; one beyond the last: beside the group"""

    def __call__(self, spec: MemberSpec, name: str) -> PlacedHandle:
        """Start a member.

        Raises:
          DataError: the cluster cannot hold the pool with one more.
        """
        demand, taken = spec.demand, self._bundles[spec.pool]
        require_room([replace(demand, members=len(taken) + 1)], autoscales=self._autoscales)
        bundle = next(n for n in range(demand.members + 1) if n == demand.members or n not in taken.values())
        handle = spawn(spec, name, self._strategy(demand, bundle))
        taken[name] = bundle
        return PlacedHandle(handle, demand, lambda: taken.pop(name, None))

    def _strategy(self, demand: Demand, bundle: int) -> Any:
        """Return where a member goes, as Ray takes it."""
        if demand.strategy == "any":
            return "DEFAULT"
        if bundle == demand.members:
            return "SPREAD" if "spread" in demand.strategy else "DEFAULT"
        if demand.pool not in self._groups:
            bundles = [dict(demand.each) or LEAST for _ in range(demand.members)]
            self._groups[demand.pool] = ray.util.placement_group(bundles, demand.strategy.upper(), demand.pool)
        return PlacementGroupSchedulingStrategy(self._groups[demand.pool], bundle)


async def placing(config: RunConfig, run_folder: Path) -> PlacingSpawner:
    """Look whether a run can live on this cluster; return what starts its members.

    Raises:
      ConfigError, DataError: there is no room, or the nodes do not share what they must; see `actors.ray_nodes`.
    """
    require_room(demands(config), autoscales=config.cluster.autoscales)
    await require_shared(config, run_folder)
    return PlacingSpawner(autoscales=config.cluster.autoscales)

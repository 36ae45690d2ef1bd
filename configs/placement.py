"""Settings of where the members of a pool run, and whether a cluster has room for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from configs.errors import one_of

__all__ = ["Demand", "PlacementConfig", "shortfall"]

Resources = Mapping[str, float]
"""Name as Ray spells it (CPU, GPU, or one of your own) -> amount."""
SLACK = 1e-6
"""Sums of fractions are rounded."""


@dataclass(kw_only=True)
class PlacementConfig:
    """Where the members of a pool run."""

    strategy: str = "any"
    """any: wherever there is room. pack, spread: on as few, as many nodes as possible. strict_pack: on one node.
    strict_spread: each on a node of its own. Members that join later are placed one by one."""
    resources: dict[str, float] = field(default_factory=dict)
    """Custom resources that each member takes beside CPUs and GPUs, as `ray start --resources` names them."""

    def __post_init__(self) -> None:
        one_of("placement.strategy", self.strategy, ("any", "pack", "spread", "strict_pack", "strict_spread"))


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a pool takes of a cluster."""

    pool: str
    members: int
    each: Resources
    """Of one member; amounts above 0."""
    strategy: str = "any"

    @classmethod
    def of(cls, pool: str, members: int, num_cpus: float, num_gpus: float, placement: PlacementConfig) -> Demand:
        """Return the demand of a pool from its settings."""
        amounts = {"CPU": num_cpus, "GPU": num_gpus, **placement.resources}
        each = {name: amount for name, amount in amounts.items() if amount > 0}
        return cls(pool=pool, members=members, each=each, strategy=placement.strategy)


def shortfall(demands: Sequence[Demand], nodes: Sequence[Resources]) -> list[str]:
    """Say, resource by resource and pool by pool, what a cluster lacks; nothing said does not yet mean that all fit.

    Args:
      nodes: everything that each node has, in use or not.
    """
    wanted = {name: 0.0 for demand in demands for name in demand.each}
    said = [line for name in wanted if (line := _total(name, demands, nodes))]
    # A pool that is refused for a sum needs no second reason.
    return said or [line for demand in demands for line in _rooms(demand, nodes)]


def _total(name: str, demands: Sequence[Demand], nodes: Sequence[Resources]) -> str:
    parts = [(demand, demand.each[name]) for demand in demands if name in demand.each]
    wanted = sum(demand.members * amount for demand, amount in parts)
    have = sum(node.get(name, 0.0) for node in nodes)
    if wanted <= have + SLACK:
        return ""
    sums = " + ".join(f"{demand.pool} {demand.members} x {amount:g}" for demand, amount in parts)
    return f"{name}: {sums} = {wanted:g}, there are {have:g}: short of {wanted - have:g}"


def _rooms(demand: Demand, nodes: Sequence[Resources]) -> Iterator[str]:
    """Compare a pool with the whole members that each node holds if it holds nothing else."""
    if not demand.each:
        return
    rooms = [_room(demand.each, node) for node in nodes]
    found, where = {
        "strict_pack": (max(rooms, default=0), "one node"),
        "strict_spread": (sum(room > 0 for room in rooms), "nodes of their own"),
    }.get(demand.strategy, (sum(rooms), "nodes that hold a member whole"))
    if found < demand.members:
        each = ", ".join(f"{amount:g} {name}" for name, amount in demand.each.items())
        short = demand.members - found
        yield f"{demand.pool}: {demand.members} members of {each} want {where}; room for {found}: short of {short}"


def _room(each: Resources, node: Resources) -> int:
    return min(int((node.get(name, 0.0) + SLACK) / amount) for name, amount in each.items())

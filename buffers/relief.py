"""What to do when no batch comes: say what is awaited and who has it, and take it from those who are silent.

Silent is who holds work and has brought nothing of it for the stated time, alive or not. All silent workers lose
their slots to the others; of each kind, workers and reward servers, the one that holds most is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buffers.identity import Slot
from buffers.intake import Intake
from buffers.stream import StreamBuffer
from buffers.transport import HandleSet

__all__ = ["relieve"]

SHOWN = 3


@dataclass(frozen=True)
class _Holder:
    """Someone who has work and keeps it."""

    name: str
    held: int
    what: str


def relieve(buffer: StreamBuffer, intake: Intake, pools: Mapping[str, HandleSet], quiet_s: float, now: float) -> str:
    """Take from silent members what they hold, and have the worst replaced; return what is awaited and was done.

    Args:
      quiet_s: seconds without any result that make a holder silent.
      now: loop time.
    """
    leases = buffer.leases()
    workers = [
        _Holder(name, len(slots), f"{name} holds {_shown(slots)} and brought nothing for {now - heard:.0f} s")
        for name, slots in leases.items()
        if now - (heard := intake.heard.get(name, now)) >= quiet_s
    ]
    servers = [
        _Holder(name, calls, f"{name} works on {calls} calls and answered none for {silent_s:.0f} s")
        for pool, members in pools.items()
        if pool != "rollout"
        for name, (calls, silent_s) in members.under_way(now).items()
        if silent_s >= quiet_s
    ]
    replaced = [max(found, key=lambda holder: holder.held) for found in (workers, servers) if found]
    for holder in workers:
        intake.take_back(holder.name, holder.what if holder in replaced else "")
    for holder in replaced:
        intake.suspects[holder.name] = holder.what
    done = f"replaced: {', '.join(holder.name for holder in replaced)}" if replaced else "nobody is silent"
    return "; ".join([buffer.awaiting(), *(holder.what for holder in (*workers, *servers)), done])


def _shown(slots: Sequence[Slot]) -> str:
    some = ", ".join(map(str, slots[:SHOWN]))
    return f"{len(slots)} samples ({some}{', ...' if len(slots) > SHOWN else ''})"

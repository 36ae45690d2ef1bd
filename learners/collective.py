"""How the ranks of a learner group add up: one sum per optimiser step.

Gradients are summed, not averaged: each rank has already divided its losses by the global
denominators. One flat bucket per step does what DDP does with a hook per bucket, without a
collective per micro-batch; the result is the same on every rank, so that all of them take, or
skip, the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor, distributed

from configs.errors import MemberLost

__all__ = ["Alone", "Collective", "RankGroup"]


class Collective(Protocol):
    """What the learner needs of its group."""

    rank: int
    size: int

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace each tensor by rank 0's."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Nothing to add."""

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to receive."""

    def close(self) -> None:
        """Nothing to leave."""


class RankGroup:
    """A group of processes that meet at `address`, for example tcp://10.0.0.1:29500; gloo on CPUs, NCCL on GPUs."""

    def __init__(self, address: str, rank: int, size: int, deadline_s: float, *, device: str = "cpu") -> None:
        self.rank, self.size, self._deadline_s = rank, size, deadline_s
        backend = "nccl" if device.startswith("cuda") else "gloo"
        with self._lost_within(f"meeting at {address}"):
            distributed.init_process_group(
                backend, init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=deadline_s)
            )

    def sum(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        with self._lost_within("gradient sum"):
            distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        with self._lost_within("weights from rank 0"), torch.no_grad():
            for name in sorted(tensors):
                distributed.broadcast(tensors[name].detach(), src=0)

    def close(self) -> None:
        distributed.destroy_process_group()

    def _lost_within(self, awaited: str) -> _Lost:
        return _Lost(f"learner rank {self.rank} of {self.size}: no {awaited} within {self._deadline_s:g} s")


class _Lost:
    """Turns gloo's RuntimeError into the MemberLost that the supervisor acts on."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            raise MemberLost(f"{self._message}; a rank is gone: {error}") from error

"""How the ranks of a learner group add up: gradients in the backward pass, metrics after it.

Gradients are summed, not averaged: each rank has already divided its losses by the global
denominators. torch's DistributedDataParallel sends them off in buckets while the backward pass of a
rank's last micro-batch goes on; the earlier ones only accumulate. The result is the same on every
rank, so that all of them take, or skip, the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from configs.errors import MemberLost

__all__ = ["Alone", "Collective", "RankGroup"]


class Collective(Protocol):
    """What the learner needs of its group."""

    rank: int
    size: int

    def join(self, module: nn.Module) -> nn.Module:
        """Return `module` with rank 0's weights, whose backward passes within `backward` add up over ranks.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def backward(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Surround the forward and backward pass of a micro-batch.

        Args:
          module: what `join` returned.
          last: the last one of an optimiser step; every rank has exactly one.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def sum(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over ranks.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def join(self, module: nn.Module) -> nn.Module:
        return module

    def backward(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def sum(self, tensor: Tensor) -> None:
        """Nothing to add."""

    def close(self) -> None:
        """Nothing to leave."""


class RankGroup:
    """A group of processes that meet at `address`, for example tcp://10.0.0.1:29500; gloo on CPUs, NCCL on GPUs."""

    def __init__(self, address: str, rank: int, size: int, deadline_s: float, *, device: str = "cpu") -> None:
        self.rank, self.size, self._deadline_s = rank, size, deadline_s
        # Metrics are summed on the CPU, wherever the gradients are.
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        with self._expecting(f"meeting at {address}"):
            distributed.init_process_group(
                backend, init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=deadline_s)
            )

    def join(self, module: nn.Module) -> nn.Module:
        with self._expecting("weights from rank 0"):
            parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
        parallel.register_comm_hook(None, summed)
        return parallel

    @contextmanager
    def backward(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        if last:
            with self._expecting("gradient sum"):
                yield
        else:
            with module.no_sync():  # type: ignore[operator]
                yield

    def sum(self, tensor: Tensor) -> None:
        with self._expecting("sum of metrics"):
            distributed.all_reduce(tensor)

    def close(self) -> None:
        distributed.destroy_process_group()

    @contextmanager
    def _expecting(self, awaited: str) -> Iterator[None]:
        """Turn the RuntimeError of a broken collective into the MemberLost that the supervisor acts on."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            lost = f"learner rank {self.rank} of {self.size}: no {awaited} within {self._deadline_s:g} s"
            raise MemberLost(f"{lost}; a rank is gone: {error}") from error


def summed(_, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
    """Add a bucket of gradients up; DistributedDataParallel would divide by the number of ranks."""
    future = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])

"""The processes of a learner group: they meet, add numbers up, and notice when one of them is gone.

What they do with the weights of a module is up to a backend, see `learners.backends`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from configs.errors import MemberLost

__all__ = ["Alone", "Collective", "RankGroup"]


class Collective(Protocol):
    """What the learner needs of its group."""

    rank: int
    size: int

    def sum(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over ranks.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def most(self, number: int) -> int:
        """Return the largest `number` of all ranks.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def expecting(self, awaited: str) -> AbstractContextManager[None]:
        """Surround what all ranks do together; a rank that is gone raises MemberLost, which says what was awaited."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def sum(self, tensor: Tensor) -> None:
        """Nothing to add."""

    def most(self, number: int) -> int:
        return number

    def expecting(self, awaited: str) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        """Nothing to leave."""


class RankGroup:
    """A group of processes that meet at `address`, for example tcp://10.0.0.1:29500; gloo on CPUs, NCCL on GPUs.

    A group of one needs no address.
    """

    def __init__(self, address: str, rank: int, size: int, deadline_s: float, *, device: str = "cpu") -> None:
        self.rank, self.size, self._deadline_s = rank, size, deadline_s
        # Metrics are summed on the CPU, wherever the gradients are.
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        store: Any = distributed  # its type stubs lack stores
        place = {"init_method": address} if size > 1 else {"store": store.HashStore()}
        with self.expecting(f"meeting at {address}"):
            distributed.init_process_group(
                backend, rank=rank, world_size=size, timeout=timedelta(seconds=deadline_s), **place
            )

    def sum(self, tensor: Tensor) -> None:
        with self.expecting("sum of metrics"):
            distributed.all_reduce(tensor)

    def most(self, number: int) -> int:
        held = torch.tensor(number)
        with self.expecting("count of micro-batches"):
            distributed.all_reduce(held, distributed.ReduceOp.MAX)
        return int(held)

    def close(self) -> None:
        distributed.destroy_process_group()

    @contextmanager
    def expecting(self, awaited: str) -> Iterator[None]:
        """Turn the RuntimeError of a broken collective into the MemberLost that the supervisor acts on."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            lost = f"learner rank {self.rank} of {self.size}: no {awaited} within {self._deadline_s:g} s"
            raise MemberLost(f"{lost}; a rank is gone: {error}") from error

"""torch DistributedDataParallel: every rank holds the whole model, and all make the same step.

It sends gradients off in buckets while the backward pass of a rank's last micro-batch goes on; the
earlier ones only accumulate. A single rank without a group is the same without any wrapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from configs.learning import LearnerConfig
from learners.collective import Collective
from learners.optimiser import Optimiser

__all__ = ["Replicated"]


class Replicated:
    """Implements `Backend`."""

    lockstep = False

    def __init__(self, module: nn.Module, network: nn.Module, group: Collective, config: LearnerConfig) -> None:
        self._group = group
        self.module = self._join(module)
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._optimiser = Optimiser(self._parameters, config)

    def _join(self, module: nn.Module) -> nn.Module:
        if self._group.size == 1:
            return module
        with self._group.expecting("weights from rank 0"):
            parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
        parallel.register_comm_hook(None, summed)
        return parallel

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        if last or self._group.size == 1:
            with self._group.expecting("gradient sum"):
                yield
        else:
            with self.module.no_sync():  # type: ignore[operator]
                yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> tuple[float, bool]:
        return self._optimiser.step(learning_rate)

    def reset(self) -> None:
        self._optimiser.reset()

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self._parameters[name].detach() for name in names}

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            self._parameters[name].copy_(weight)

    def optimiser_state(self) -> Iterator[tuple[str, Tensor]]:
        return self._optimiser.state()

    def load_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        self._optimiser.load(tensors)


def summed(_, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
    """Add a bucket of gradients up; DistributedDataParallel would divide by the number of ranks."""
    future = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])

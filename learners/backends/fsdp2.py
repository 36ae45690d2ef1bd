"""torch FSDP2 (`fully_shard`): each rank holds a slice of every weight, gradient and moment.

A block's weights are gathered for its pass and freed after it; the sum of its gradients is scattered back.
Micro-batches before the last one add up whole gradients, which costs the memory of one model and saves traffic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from configs.learning import LearnerConfig
from learners.backends import broadcast_weights
from learners.backends.ddp import Replicated
from learners.collective import Collective
from learners.optimiser import cut_like, whole
from learners.recompute import blocks

__all__ = ["FullySharded"]


class FullySharded(Replicated):
    """Implements `Backend`."""

    lockstep = True

    def __init__(
        self,
        module: nn.Module,
        network: nn.Module,
        group: Collective,
        config: LearnerConfig,
        reshard_after_forward: bool = True,
    ) -> None:
        """Cut the module.

        Args:
          reshard_after_forward: free a block's weights after the forward pass and gather them again for
            the backward pass (like ZeRO-3); false keeps them (like ZeRO-2).
        """
        self._reshard = reshard_after_forward
        super().__init__(module, network, group, config)

    def _join(self, module: nn.Module) -> nn.Module:
        broadcast_weights(module, self._group)
        device = next(module.parameters()).device
        with self._group.expecting("cutting of the weights"):
            mesh = init_device_mesh(device.type, (self._group.size,))
            for part in (*blocks(module), module):
                fully_shard(part, mesh=mesh, reshard_after_forward=self._reshard)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it adds
        return module

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
        self.module.set_is_last_backward(last)  # type: ignore[operator]
        with self._group.expecting("weights and gradient sum"):
            yield

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        with self._group.expecting("shards of weights"):
            return {name: whole(self._parameters[name].detach()) for name in names}

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            held = self._parameters[name]
            held.copy_(cut_like(weight.to(held.device), held))

"""How the ranks of a group train one module: who holds which part of weights, gradients and moments.

    backend = build(config, module, network, group)
    for part in parts:
        with backend.micro_batch(last=part is parts[-1]):
            backend.backward(loss(backend.module(part)))
    norm, taken = backend.step(rate)

    ddp     every rank holds everything; gradients are summed in buckets during the last backward pass
    fsdp2   torch's `fully_shard`: weights, gradients and moments are cut, and gathered block by block
    zero    DeepSpeed ZeRO, `stage` 1 (moments), 2 (and gradients) or 3 (and weights)

Gradients are summed, not averaged: each rank has already divided its losses by the global
denominators. Every rank clips by the norm of the whole gradient, and takes or skips the same step.

Outside of a backend weights and moments are whole tensors by name (`gather`, `optimiser_state`), in float32
or the model's dtype: so a checkpoint is of no backend and no number of ranks. All ranks must call these together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from configs.learning import LearnerConfig
from configs.registry import construct, split
from learners.collective import Alone, Collective, RankGroup

__all__ = ["BACKENDS", "Backend", "build", "meet"]

BACKENDS = {
    "ddp": "learners.backends.ddp:Replicated",
    "fsdp2": "learners.backends.fsdp2:FullySharded",
    "zero": "learners.backends.zero:Zero",
}


class Backend(Protocol):
    """Implemented by every class of `BACKENDS`."""

    module: nn.Module
    """What passes with gradient call; passes without one may call the module that was wrapped."""
    lockstep: bool
    """Whether each pass is one of the whole group: all ranks must then make the same number of passes."""

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Surround the forward and backward pass of a micro-batch.

        Args:
          last: the last one of an optimiser step; every rank has exactly one.

        Raises:
          MemberLost: a rank did not take part in time.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, inside `micro_batch`."""
        ...

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clip and apply the sum of all ranks' gradients, then clear it.

        Returns:
          (norm before clipping, whether it was finite and the step was taken).
        """
        ...

    def reset(self) -> None:
        """Forget the moments."""
        ...

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole trained weights by name, detached; the next step may change them in place."""
        ...

    def fill(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite trained weights by whole tensors."""
        ...

    def optimiser_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield `<moment>/<parameter>` with whole tensors, one at a time; nothing before the first step."""
        ...

    def load_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `optimiser_state` yielded, of whichever backend.

        Raises:
          DataError: a tensor is missing, surplus or of another shape.
        """
        ...


def build(config: LearnerConfig, module: nn.Module, network: nn.Module, group: Collective) -> Backend:
    """Put `module` into the hands of the configured backend; all ranks take rank 0's weights.

    Args:
      network: the part of `module` whose parameter names count.

    Raises:
      ConfigError: the backend is unknown, not installed, or refuses its settings.
      MemberLost: a rank did not take part in time.
    """
    backend: Backend = construct(
        BACKENDS, config.backend, "learner.backend", module=module, network=network, group=group, config=config
    )
    return backend


def meet(config: LearnerConfig, address: str, rank: int, device: str) -> Collective:
    """Return the group of a rank; backends that cut weights need one even for a single rank."""
    if config.ranks == 1 and split(config.backend, "learner.backend")[0] == "ddp":
        return Alone()
    return RankGroup(address, rank, config.ranks, config.update_deadline_s, device=device)


def broadcast_weights(module: nn.Module, group: Collective) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    with group.expecting("weights from rank 0"), torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor, 0)

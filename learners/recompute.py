"""The blocks of a network, and computing their activations twice instead of keeping them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["blocks", "recompute_blocks"]


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of every outermost ModuleList: the layers of a transformer."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else blocks(child)


def recompute_blocks(module: nn.Module) -> None:
    """Keep of each block only its input for the backward pass, which runs the block again.

    Source: arXiv:1604.06174.
    """
    for block in blocks(module):
        # On the instance, so that parameters keep their names, and inside whatever hooks gather a block's weights.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)

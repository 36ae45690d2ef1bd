"""Which tokens of a row a token sees, for rows that hold prefix trees or several sequences.

A depth-first walk numbers the tokens; `enter` is a token's number and `leave` the first one after its
subtree. A token sees itself and its ancestors: key k is one of query q's if enter[k] <= enter[q] < leave[k].

Dimensions: R rows, T tokens, N query heads, K key-value heads, D head size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

__all__ = ["BLOCK", "BlockMask", "Mask", "block_attention", "block_mask", "dense_mask"]

BLOCK = 128
"""Tokens of FlexAttention's square blocks, of which those without a visible pair are never computed."""

Mask = Tensor | BlockMask | None
"""[R, T, T] bool, query sees key; or the same in blocks, for one long row on a GPU; None is causal."""


def dense_mask(enter: Tensor, leave: Tensor) -> Tensor:
    """Return [R, T, T] bool of [R, T] intervals."""
    queries, keys, ends = enter[:, :, None], enter[:, None, :], leave[:, None, :]
    return (keys <= queries) & (queries < ends)


def block_mask(enter: Tensor, leave: Tensor) -> BlockMask:
    """Return the mask of [1, T] intervals in blocks: memory and time follow what is visible, not T x T."""
    (enter,), (leave,) = enter, leave

    def visible(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (enter[key] <= enter[query]) & (enter[query] < leave[key])

    return create_block_mask(visible, None, None, len(enter), len(enter), device=str(enter.device), BLOCK_SIZE=BLOCK)


def block_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: BlockMask, scale: float | None) -> Tensor:
    """Return softmax(q k scale) v [1, N, T, D]; queries [1, N, T, D], keys and values [1, K, T, D].

    Source: FlexAttention, arXiv:2412.05496. `scale` defaults to 1 / sqrt(D).
    """
    # Uncompiled it is a dense product and has no gradient, which is enough to compare with.
    attend = compiled() if queries.is_cuda else flex_attention
    grouped = queries.shape[1] != keys.shape[1]
    mixed: Tensor = attend(queries, keys, values, block_mask=mask, scale=scale, enable_gqa=grouped)
    return mixed


@functools.cache
def compiled() -> Any:
    return torch.compile(flex_attention)

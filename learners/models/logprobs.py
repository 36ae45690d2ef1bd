"""Log-probabilities and entropies of tokens, with only a chunk of logits in memory at a time.

Dimensions: N token positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = ["token_logprobs"]

Project = Callable[[Tensor], Tensor]
"""[n, H] hidden states -> [n, V] logits"""


def token_logprobs(
    hidden: Tensor, targets: Tensor, project: Project, temperature: Tensor | float = 1.0, chunk: int = 8192
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and the entropy of its distribution.

    Gradients flow into `hidden` and into whatever weights `project` uses; where there is more than
    one chunk, its logits are computed again in the backward pass.

    Args:
      hidden: [..., H] float. Hidden state that predicts the target.
      targets: [...] long.
      project: maps [n, H] to logits [n, V]; usually `network.logits`.
      temperature: [...] float or one number; logits are divided by it. 0 (greedy) counts as 1,
        as in the engines.
      chunk: token positions whose logits exist at a time.

    Returns:
      ([...], [...]) float, nats; float32 at least.

    Raises:
      ValueError: shapes differ, or `chunk` is below 1.
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(f"hidden is {list(hidden.shape)}, targets {list(targets.shape)}; all but the last must agree")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be >= 1; 8192 is usual")
    scale = torch.as_tensor(temperature, device=hidden.device, dtype=wide(hidden.dtype))
    scale = torch.where(scale > 0, scale, 1.0).expand(targets.shape).reshape(-1)
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    starts = range(0, max(len(flat), 1), chunk)
    # A single chunk fits into memory by definition: keep it instead of computing it twice.
    recompute = len(starts) > 1 and torch.is_grad_enabled()
    slices = [slice(start, start + chunk) for start in starts]
    parts = [chunk_logprobs(rows[s], flat[s], scale[s], project, recompute) for s in slices]
    logprobs, entropy = (torch.cat(column).reshape(targets.shape) for column in zip(*parts, strict=True))
    return logprobs, entropy


def chunk_logprobs(
    hidden: Tensor, targets: Tensor, scale: Tensor, project: Project, recompute: bool
) -> tuple[Tensor, Tensor]:
    def compute(rows: Tensor) -> tuple[Tensor, Tensor]:
        return TargetLogprob.apply(project(rows), targets, scale)

    if not recompute:
        return compute(hidden)
    return checkpoint(compute, hidden, use_reentrant=False, preserve_rng_state=False)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for sums of exponentials: float64 stays, everything else becomes float32."""
    return dtype if dtype == torch.float64 else torch.float32


class TargetLogprob(torch.autograd.Function):
    """(logits [n, V], targets [n], scale [n]) -> (log p(target) [n], entropy [n]), p = softmax(logits / scale).

    Autograd would keep four [n, V] tensors for the backward pass; this keeps one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        logp = (logits.to(scale.dtype) / scale[:, None]).log_softmax(-1)
        # -inf logits (a processor's ban) have p = 0: their 0 * -inf counts as 0.
        entropy = torch.special.entr(logp.exp()).sum(-1)
        ctx.save_for_backward(logp, targets, scale, entropy)
        ctx.logits_dtype = logits.dtype
        return logp.gather(-1, targets[:, None])[:, 0], entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """d log p_t / dz_j = [j = t] - p_j and dH / dz_j = -p_j (log p_j + H), z = logits / scale."""
        logprob_gradient, entropy_gradient = gradients
        logp, targets, scale, entropy = ctx.saved_tensors
        p = logp.exp()
        surprise = torch.where(p > 0, logp, 0.0) + entropy[:, None]
        result = -p * (logprob_gradient[:, None] + entropy_gradient[:, None] * surprise)
        result.scatter_add_(-1, targets[:, None], logprob_gradient[:, None])
        return (result / scale[:, None]).to(ctx.logits_dtype), None, None

"""Kullback-Leibler estimates from samples. B sequences, T tokens."""

from __future__ import annotations

from torch import Tensor

from learners.losses.base import Denominators, check_same_shape, log_ratio

__all__ = ["k3", "reference_kl"]


def k3(log_ratios: Tensor) -> Tensor:
    """Return exp(x) - 1 - x: unbiased for KL(q || p) with x = log p - log q, tokens from q; never negative.

    Source: J. Schulman, "Approximating KL divergence" (2020), estimator k3; arXiv:2402.03300 eq. 4.
    """
    return log_ratios.expm1() - log_ratios


def reference_kl(current: Tensor, reference: Tensor, mask: Tensor, denominators: Denominators) -> Tensor:
    """Return [] nats, the mean k3 estimate of KL(pi || pi_ref) over loss tokens; carries gradient.

    Args:
      current, reference: [B, T] nats.
      mask: [B, T] bool.

    Raises:
      ValueError: the tensors differ in shape.
    """
    check_same_shape(current=current, reference=reference, mask=mask)
    return k3(log_ratio(reference, current, mask)).sum() / denominators.tokens

"""What one update holds fixed: old log-probabilities, values, advantages and value targets.

Dimensions: B fragments, T steps, K truncations, P distribution parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from learners.decision_batch import DecisionBatch
from learners.decision_unroll import Outputs
from learners.models.decision.base import ActionDistribution
from learners.returns.base import Returns, Steps, boundaries

__all__ = ["Targets", "estimate", "masked_moments"]

MIN_DEVIATION = 1e-3
"""Advantages below this spread are noise, not to be blown up; as in Sample Factory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """[B, T] each, without gradient."""

    proximal: Tensor
    """nats, log pi of the weights at the start of the update."""
    target: Tensor
    """nats, log pi of the target network; the proximal policy without one."""
    values: Tensor
    """V(x_t) at the start of the update."""
    returns: Tensor
    """What the critic is to say."""
    advantages: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Targets]) -> Targets:
        """Return the fragments of all parts, in their order."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def select(self, rows: Sequence[int]) -> Targets:
        """Return the fragments of some ordinals."""
        return Targets(**{f.name: getattr(self, f.name)[list(rows)] for f in fields(self)})

    def normalised(self, mask: Tensor) -> Targets:
        """Return targets whose advantages have mean 0 and deviation 1 over the steps of `mask`."""
        mean, deviation = masked_moments(self.advantages, mask)
        return replace(self, advantages=(self.advantages - mean) / deviation.clamp(min=MIN_DEVIATION))

    def shared(self, rows: Sequence[int], size: int, add_up: Callable[[Tensor], None]) -> Targets:
        """Return those of all `size` fragments, of which each rank has estimated some.

        Args:
          rows: ordinals of this rank's fragments.
          add_up: replaces a tensor by its sum over ranks; each fragment is one rank's, so nothing is rounded.
        """
        mine = torch.stack([getattr(self, f.name) for f in fields(self)])
        whole = mine.new_zeros(len(mine), size, mine.shape[2])
        whole[:, list(rows)] = mine[:, : len(rows)]
        add_up(whole)
        return Targets(**{f.name: whole[i] for i, f in enumerate(fields(self))})


def estimate(
    batch: DecisionBatch,
    outputs: Outputs,
    finals: Tensor,
    *,
    distribution: ActionDistribution,
    returns: Returns,
    gamma: float,
    target: Tensor | None,
) -> Targets:
    """Return the targets of a batch.

    Args:
      outputs: of the weights at the start of the update.
      finals: [K], see `Unroll.final_values`.
      target: [B, T, P] of the target network, whose ratio then corrects the returns.
    """
    parameters, values = (tensor.detach() for tensor in outputs)
    proximal = distribution.logprobs(parameters, batch.actions)
    slow = proximal if target is None else distribution.logprobs(target, batch.actions)
    following, continues = boundaries(
        values, finals, terminated=batch.terminated, truncated=batch.truncated, mask=batch.decided
    )
    steps = Steps(
        log_ratios=torch.where(batch.decided, slow - batch.behaviour, 0.0),
        rewards=batch.rewards,
        values=values[:, :-1],
        following=following,
        continues=continues,
        mask=batch.decided,
    )
    guess = returns(steps, gamma)
    return Targets(
        proximal=proximal, target=slow, values=steps.values, returns=guess.targets, advantages=guess.advantages
    )


def masked_moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return ([] mean, [] deviation) over the steps of a mask; (0, 0) where it is empty."""
    count = mask.sum().clamp(min=1)
    mean = torch.where(mask, values, 0.0).sum() / count
    return mean, (torch.where(mask, values - mean, 0.0).square().sum() / count).sqrt()

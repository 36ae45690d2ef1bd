"""What one optimiser step of a decision policy minimises: policy loss, value loss, entropy. B fragments, T steps."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.decision import ActorCriticConfig
from configs.errors import ConfigError
from learners.decision_batch import DecisionBatch
from learners.decision_targets import Targets
from learners.decision_unroll import Outputs
from learners.losses.base import Denominators, Loss, LossInputs, Metrics, log_ratio
from learners.losses.importance import mismatch_metrics
from learners.losses.kl import k3
from learners.models.decision.base import ActionDistribution

__all__ = ["DecisionObjective", "value_loss"]

SUPPLIED = frozenset({"current", "behaviour", "proximal", "target", "entropy", "values"})


def value_loss(values: Tensor, old: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """Return [B, T] half the squared error of the critic.

    Args:
      values: [B, T] V of the weights in training; carries gradient.
      old: [B, T] V at the start of the update.
      returns: [B, T] what it should be.
      clip: a change of the value beyond this is not rewarded: the larger of both errors counts.

    Source: arXiv:1802.01561 sec. 4.2; the clip is that of OpenAI Baselines' ppo2, see arXiv:2006.05990 app. B.1.
    """
    errors = (values - returns).square()
    if clip is not None:
        errors = torch.maximum(errors, (old + (values - old).clamp(-clip, clip) - returns).square())
    return 0.5 * errors


class DecisionObjective:
    """policy loss + value_coefficient * value loss - entropy_coefficient * entropy."""

    def __init__(self, loss: Loss, distribution: ActionDistribution, config: ActorCriticConfig) -> None:
        """Combine a policy loss with the settings of actor-critic learning.

        Raises:
          ConfigError: the loss asks for something that is not there.
        """
        if unknown := loss.inputs - SUPPLIED:
            names, known = ", ".join(sorted(unknown)), ", ".join(sorted(SUPPLIED))
            raise ConfigError(f"learner.loss asks for {names}; a decision learner supplies {known}; choose another")
        self._loss, self._distribution, self._config = loss, distribution, config

    def __call__(
        self, batch: DecisionBatch, outputs: Outputs, targets: Targets, denominators: Denominators
    ) -> tuple[Tensor, Metrics]:
        """Return ([] loss with gradient, metrics), additive over parts and ranks."""
        parameters, values = outputs
        current = self._distribution.logprobs(parameters, batch.actions)
        entropy = self._distribution.entropy(parameters)
        tensors = LossInputs(
            current=current,
            behaviour=batch.behaviour,
            advantages=targets.advantages,
            proximal=targets.proximal,
            target=targets.target,
            entropy=entropy,
            values=values[:, :-1],
        )
        policy, metrics = self._loss(tensors, batch.mask, denominators)
        errors = value_loss(values[:, :-1], targets.values, targets.returns, clip=self._config.value_clip)
        critic, nats = (torch.where(batch.mask, x, 0.0).sum() / denominators.tokens for x in (errors, entropy))
        moved = k3(log_ratio(current.detach(), targets.proximal, batch.mask))
        metrics |= {
            "policy/loss": policy.detach(),
            "policy/entropy": nats.detach(),
            "policy/ppo_kl": moved.sum() / denominators.tokens,
            "value/loss": critic.detach(),
        }
        total = policy + self._config.value_coefficient * critic - self._config.entropy_coefficient * nats
        return total, metrics | mismatch_metrics(targets.proximal, batch.behaviour, batch.mask, denominators)

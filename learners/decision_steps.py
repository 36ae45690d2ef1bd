"""Optimiser steps of a decision policy over one batch, alone or with other ranks.

With a single pass an update, the targets come out of that pass; with several they are estimated before the first.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from configs.learning import LearnerConfig
from configs.registry import construct
from learners.backends import build as build_backend
from learners.collective import Collective
from learners.decision_batch import DecisionBatch
from learners.decision_metrics import target_metrics
from learners.decision_objective import DecisionObjective
from learners.decision_plan import passes, share
from learners.decision_targets import Targets, estimate
from learners.decision_unroll import Outputs, Unroll
from learners.losses import LOSSES
from learners.losses.base import Denominators, Loss
from learners.losses.importance import effective_sample_size
from learners.returns import RETURNS
from learners.returns.base import Returns

__all__ = ["DecisionSteps"]

Metrics = dict[str, float]


class DecisionSteps:
    """A network with what moves its weights: returns, losses, optimiser, target network."""

    def __init__(self, config: LearnerConfig, network: Any, collective: Collective) -> None:
        """Meet the other ranks.

        Raises:
          ConfigError: an unknown loss or return, or a loss that asks for what is not there.
        """
        loss: Loss = construct(LOSSES, config.loss, "learner.loss")
        self._returns: Returns = construct(RETURNS, config.actor_critic.returns, "learner.actor_critic.returns")
        self._config, self._settings, self._collective = config, config.actor_critic, collective
        self._distribution = network.distribution
        self._objective = DecisionObjective(loss, network.distribution, config.actor_critic)
        self._unroll = Unroll(network)
        self.backend = build_backend(config, self._unroll, network, collective)
        # After joining: the target starts out as rank 0's weights, like everyone's.
        self.target = copy.deepcopy(self._unroll).requires_grad_(False) if "target" in loss.inputs else None

    def train(self, batch: DecisionBatch, plan: Sequence[Sequence[int]], rate: float) -> tuple[Metrics, Targets]:
        """Take the steps of a plan; return their mean metrics, equal on all ranks, and what they aimed at.

        Args:
          plan: for each optimiser step the ordinals of its fragments, ascending.
        """
        fragments_per_rank = -(-len(batch.mask) // self._collective.size)
        single = len(plan) == 1 and fragments_per_rank <= self._pass_size(batch)
        targets = None if single else self._targets(batch)
        steps: list[Metrics] = []
        for rows in plan:
            sums, targets = self._backward(batch, rows, targets)
            steps.append(self._finish(sums, rate))
        assert targets is not None
        metrics = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
        skipped = sum(step["optim/skipped"] for step in steps)
        return metrics | {"optim/lr": rate, "optim/skipped": skipped} | target_metrics(targets, batch.mask), targets

    def _pass_size(self, batch: DecisionBatch) -> int:
        """Return how many fragments one forward pass may hold."""
        return max(1, self._config.micro_batch_tokens // batch.mask.shape[1])

    @torch.no_grad()
    def _targets(self, batch: DecisionBatch) -> Targets:
        """Return the targets of the whole batch, of which this rank estimates a share."""
        count = len(batch.mask)
        mine = share(range(count), self._collective.rank, self._collective.size)
        parts = [batch.select(rows) for rows in passes(mine or [0], self._pass_size(batch))]
        found = Targets.joined([self._estimate(part, self._unroll(part)) for part in parts])
        return found.shared(mine, count, self._collective.sum)

    def _estimate(self, batch: DecisionBatch, outputs: Outputs) -> Targets:
        with torch.no_grad():
            return estimate(
                batch,
                outputs,
                self._unroll.final_values(batch),
                distribution=self._distribution,
                returns=self._returns,
                gamma=self._settings.gamma,
                target=None if self.target is None else self.target(batch)[0],
            )

    def _backward(self, batch: DecisionBatch, rows: Sequence[int], targets: Targets | None) -> tuple[Metrics, Targets]:
        """Add up the gradients of a step over its parts and the ranks.

        Args:
          targets: of the whole batch; None where the only pass of the update is to estimate them.

        Returns:
          Metrics summed over parts and ranks, and the targets.
        """
        mine = share(rows, self._collective.rank, self._collective.size)
        # A rank without a fragment goes through the motions with one that counts nothing, so that all meet.
        parts = passes(mine or rows[:1], self._pass_size(batch))
        counted = batch.only(rows).mask
        counts = Denominators(max(1.0, float(counted.sum())), max(1.0, float(counted.any(1).sum())))
        found: list[dict[str, Tensor]] = []
        for part_rows in parts:
            part = batch.select(part_rows) if mine else batch.only([]).select(part_rows)
            with self.backend.micro_batch(last=part_rows is parts[-1]):
                outputs = self.backend.module(part)
                if targets is None:
                    targets = self._estimate(part, outputs).shared(mine, len(batch.mask), self._collective.sum)
                aims = targets.normalised(counted) if self._settings.normalise_advantages else targets
                loss, metrics = self._objective(part, outputs, aims.select(part_rows), counts)
                self.backend.backward(loss)
            found.append(metrics)
        assert targets is not None
        names = sorted(found[0])
        sums = torch.stack([torch.stack([metrics[name] for name in names]) for metrics in found]).sum(0).cpu()
        self._collective.sum(sums)
        return dict(zip(names, sums.tolist(), strict=True)), targets

    def _finish(self, sums: Metrics, rate: float) -> Metrics:
        """Move the weights; return the metrics of the step."""
        mean_square = sums.pop("rollout/is_ratio/mean_square")
        norm, taken = self.backend.step(rate)
        return sums | {
            "rollout/ess": effective_sample_size(sums["rollout/is_ratio/mean"], mean_square),
            "optim/grad_norm": norm,
            "optim/skipped": float(not taken),
        }

"""The decision learner: a table of fragments in, new weights out. A plain object, the same with one rank or many.

    fragments -> total rewards -> targets (values, returns, advantages) -> steps over minibatches of whole fragments

Every rank reads the whole table, so that normalisers agree, and trains on its share of each minibatch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from buffers.digest import chain_digest, weights_digest
from buffers.environment_spec import EnvironmentSpec
from buffers.fragment import Fragments, read_fragments
from configs.errors import require
from configs.schema import RunConfig
from learners.collective import Alone, Collective
from learners.decision_batch import DecisionBatch, batch_of
from learners.decision_metrics import reward_metrics
from learners.decision_plan import plan_steps
from learners.decision_rewards import ReturnScale, total_reward
from learners.decision_steps import DecisionSteps
from learners.models.decision import build_policy
from learners.models.decision.inputs import FlatInputs
from learners.models.weights import Layout
from learners.progress import LearnerState, Progress
from learners.schedule import learning_rate

__all__ = ["DecisionLearner"]

Metrics = dict[str, float]


class DecisionLearner:
    """Owns the actor-critic, its optimiser and the record of what it was trained on."""

    def __init__(
        self,
        config: RunConfig,
        spec: EnvironmentSpec,
        *,
        collective: Collective | None = None,
        seed: int = 0,
        total_updates: int = 1,
    ) -> None:
        """Build the network of `config.policy` with the weights of `seed`.

        Args:
          collective: the other ranks; None is a group of one.
          total_updates: updates of the whole run, which decaying schedules need.

        Raises:
          ConfigError: an unknown policy, loss or return, or settings that do not go together.
        """
        self.progress = Progress()
        self._run, self._config, self._settings = config, config.learner, config.learner.actor_critic
        self._spec, self._seed, self._total_updates = spec, seed, total_updates
        self._rate()
        self.network: Any = build_policy(config.policy, spec, seed).to(config.model.device)
        self._normalised = [m for m in self.network.modules() if isinstance(m, FlatInputs) and m.normaliser]
        self._check()
        self._steps = DecisionSteps(config.learner, self.network, collective or Alone())
        self._scale = ReturnScale()
        self.layout = Layout.of(self.weights())

    @property
    def version(self) -> int:
        """Updates so far: the version of the weights."""
        return self.progress.version

    def weights(self) -> dict[str, Tensor]:
        """Return name -> parameter or normaliser buffer, detached but not copied: the next update changes them."""
        return tensors_of(self.network)

    def buckets(self, limit: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weights in the order of the layout, about `limit` bytes at a time."""
        held = self.weights()
        return ({name: held[name] for name in names} for names in self.layout.buckets(limit))

    def digest(self) -> str:
        """Return the sha256 of the weights."""
        return weights_digest({name: w.cpu() for name, w in self.weights().items()})

    def update(self, table: pa.Table) -> Metrics:
        """Train on a batch of fragments; every rank is given the same table.

        Returns:
          Metrics over the whole batch, equal on all ranks.

        Raises:
          RunError: `max_nonfinite_updates` updates in a row were skipped.
          DataError: the table holds no fragments of this environment.
          MemberLost: another rank is gone.
        """
        c, fragments = self._config, read_fragments(self._spec, table)
        rewards, scale = self._rewards(fragments)
        batch = batch_of(fragments, rewards / scale, burn_in=self._settings.burn_in, device=self._run.model.device)
        self._observe(batch)
        key = (self._seed, self.version)
        plan = plan_steps(len(fragments.ids), minibatches=c.minibatches, iterations=c.num_iterations, key=key)
        metrics, targets = self._steps.train(batch, plan, self._rate())
        if self._settings.normalise_returns:
            self._scale.observe(targets.returns[batch.decided] * float(scale))
        self.progress.advance(chain_digest(self.progress.trained_digest, fragments.ids), len(fragments.ids))
        self._renew_target()
        self.progress.count_failure(metrics["optim/skipped"] == len(plan), c.max_nonfinite_updates)
        return metrics | reward_metrics(fragments, rewards) | {"reward/scale": float(scale)}

    def state(self) -> LearnerState:
        """Return everything that `load` needs to go on bit for bit; tensors are not copied."""
        return LearnerState(
            progress=copy.copy(self.progress),
            model=self.weights(),
            optimiser=dict(self._steps.backend.optimiser_state()),
            reference=self._target_weights(),
            rng=torch.get_rng_state(),
            extra=self._scale.state(),
        )

    def load(self, state: LearnerState) -> None:
        """Restore what `state` returned.

        Raises:
          DataError: it belongs to another model.
        """
        state.check_names({"model": self.weights(), "reference": self._target_weights()})
        copy_tensors(self.weights(), state.model)
        copy_tensors(self._target_weights(), state.reference)
        self._steps.backend.load_optimiser(state.optimiser)
        self._scale.load(state.extra)
        torch.set_rng_state(state.rng)
        self.progress = copy.copy(state.progress)

    def _check(self) -> None:
        """Refuse settings that do not go together."""
        s, where, steps = self._settings, "learner.actor_critic", self._run.environment.fragment_length
        beta, burn_in, remembers = self._config.beta, s.burn_in, self.network.state_size > 0
        require(beta == 0, "learner.beta", beta, "be 0 for a decision policy, which has no reference", "leave it out")
        rule = f"be below environment.fragment_length={steps}"
        require(burn_in < steps, f"{where}.burn_in", burn_in, rule, "a quarter of it is usual")
        rule, remedy = "be 0 for a policy without memory", "set it to 0, or give the policy a core"
        require(burn_in == 0 or remembers, f"{where}.burn_in", burn_in, rule, remedy)
        asked, rule = s.normalise_observations, "be false where the policy reads no float observations"
        require(not asked or bool(self._normalised), f"{where}.normalise_observations", asked, rule, "leave it out")

    def _rate(self) -> float:
        c = self._config
        return learning_rate(
            c.learning_rate, self.version, shape=c.schedule, warmup=c.warmup_updates, total=self._total_updates
        )

    def _rewards(self, f: Fragments) -> tuple[NDArray[np.float32], np.float32]:
        """Return ([B, T] total rewards, what they are to be divided by)."""
        s = self._settings
        rewards = total_reward(
            f.rewards, f.intrinsic_rewards, f.caption_counts, self._run.exploration, clip=s.reward_clip
        )
        if s.normalise_returns:
            self._scale.begin(rewards, f.terminated | f.truncated, f.mask, s.gamma)
        return rewards, np.float32(self._scale.deviation)

    def _observe(self, batch: DecisionBatch) -> None:
        """Bring the observation normalisers up to date before anything is computed with them."""
        if self._settings.normalise_observations:
            seen = {name: value[:, :-1][batch.decided] for name, value in batch.observations.items()}
            for inputs in self._normalised:
                inputs.observe(seen)

    def _renew_target(self) -> None:
        if self.version % self._settings.target_every == 0:
            copy_tensors(self._target_weights(), self.weights())

    def _target_weights(self) -> dict[str, Tensor]:
        return {} if self._steps.target is None else tensors_of(self._steps.target.network)


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and published buffers by name, detached but not copied."""
    return dict(network.state_dict())


def copy_tensors(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors by those of the same names."""
    for name, tensor in into.items():
        tensor.copy_(tensors[name])

"""Novelty as what a network cannot predict yet.

Dimensions: n observations, D numbers of one, K features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from buffers.environment_spec import EnvironmentSpec, Observations
from rewards.intrinsic.base import Evidence, IntrinsicModel
from rewards.intrinsic.moments import Moments
from rewards.online.tensors import State, adam_state, infer, load_adam, load_network, network_state

__all__ = ["RandomNetworkDistillation", "discounted_sums"]

CLIP = 5.0
"""Normalised observations lie in [-5, 5]; arXiv:1810.12894 sec. 2.4."""


@dataclass(kw_only=True)
class RandomNetworkDistillation(IntrinsicModel):
    """Squared error of predicting a fixed random network, over the deviation of its discounted sums. Version 0: 0.

    Fully connected networks over all observations, flattened; images of more than toy size want `keys` and
    an encoder of their own. Discounted sums begin anew with each fragment, since fragments arrive in any
    order; the paper carries them on.

    Source: arXiv:1810.12894 sec. 2.2 to 2.4.
    """

    needs: ClassVar[str] = "observations"
    learns: ClassVar[bool] = True

    keys: Sequence[str] = ()
    """Observations that count; empty: all."""
    features: int = 64
    """K"""
    hidden: int = 128
    learning_rate: float = 1e-4
    batch_size: int = 256
    gamma: float = 0.99
    """Of the discounted sums whose deviation is the unit of reward."""
    seed: int = 0
    spec: EnvironmentSpec | None = None
    target: nn.Sequential = field(init=False, repr=False)
    predictor: nn.Sequential = field(init=False, repr=False)
    optimiser: torch.optim.Adam = field(init=False, repr=False)
    seen: Moments = field(default_factory=Moments, init=False, repr=False)
    """Of each of the D numbers."""
    sums: Moments = field(default_factory=Moments, init=False, repr=False)
    """Of discounted sums of errors."""

    def __post_init__(self) -> None:
        if self.spec is None:
            raise ValueError("it needs observations, and a language policy has none; choose another intrinsic reward")
        known = self.spec.observations
        if unknown := sorted(set(self.keys) - set(known)):
            raise ValueError(f"keys names {unknown[0]!r}; it must name observations: {', '.join(known)}")
        self.keys = list(self.keys) or list(known)
        size = sum(int(np.prod(known[key].shape, dtype=np.int64)) for key in self.keys)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.target = _network(size, self.hidden, self.features, layers=1)
            self.predictor = _network(size, self.hidden, self.features, layers=2)
        self.optimiser = torch.optim.Adam(self.predictor.parameters(), lr=self.learning_rate)

    def score(self, inputs: Observations) -> NDArray[np.float64]:
        flat = self._flat(inputs)
        if not self.version:
            return np.zeros(len(flat))
        return self._errors(flat) / np.sqrt(self.sums.variance + 1e-8)

    def update(self, evidence: Evidence) -> dict[str, float]:
        fragments = [self._flat(fragment) for fragment in evidence.observations]
        self.seen = self.seen.merge(np.concatenate(fragments))
        errors = [self._errors(fragment) for fragment in fragments]
        self.sums = self.sums.merge(np.concatenate([discounted_sums(e, self.gamma) for e in errors]))
        loss = self._fit(np.concatenate(fragments))
        self.version += 1
        return {"loss": loss, "error_deviation": float(np.sqrt(self.sums.variance))}

    def state(self) -> State:
        networks = {**network_state("target", self.target), **network_state("predictor", self.predictor)}
        return {**networks, **self.seen.state("seen"), **self.sums.state("sums")}

    def training_state(self) -> State:
        return adam_state("optimiser", self.optimiser)

    def load(self, version: int, state: State) -> None:
        load_network("target", self.target, state)
        load_network("predictor", self.predictor, state)
        load_adam("optimiser", self.optimiser, state)
        self.seen, self.sums = Moments.of("seen", state), Moments.of("sums", state)
        self.version = version

    def _flat(self, observations: Observations) -> NDArray[np.float64]:
        """Return [n, D]."""
        arrays = [np.asarray(observations[key], np.float64) for key in self.keys]
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], 1)

    def _normal(self, flat: NDArray[Any]) -> Tensor:
        return torch.from_numpy(self.seen.normal(flat).clip(-CLIP, CLIP)).float()

    def _errors(self, flat: NDArray[Any]) -> NDArray[np.float64]:
        """Return [n] mean squared errors over the K features."""
        inputs = self._normal(flat)
        return (infer(self.predictor, inputs) - infer(self.target, inputs)).square().mean(-1).double().numpy()

    def _fit(self, flat: NDArray[Any]) -> float:
        """Go over observations once, shuffled; return the mean loss."""
        order = torch.from_numpy(np.random.default_rng((self.seed, self.version)).permutation(len(flat)))
        inputs, losses = self._normal(flat)[order], []
        for batch in inputs.split(self.batch_size):
            with torch.no_grad():
                wanted = self.target(batch)
            loss = (self.predictor(batch) - wanted).square().mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())


def discounted_sums(errors: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Return [T] the sums s_t = gamma * s_(t-1) + errors_t of errors [T]. Source: arXiv:1810.12894 sec. 2.4."""
    sums, total = np.empty(len(errors)), 0.0
    for t, error in enumerate(errors):
        sums[t] = total = gamma * total + error
    return sums


def _network(size: int, hidden: int, features: int, *, layers: int) -> nn.Sequential:
    """Return `layers` hidden layers; the predictor has one more than its target, so that it can follow it."""
    sizes = [size, *[hidden] * layers]
    hidden_layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden_layers, nn.Linear(hidden, features))

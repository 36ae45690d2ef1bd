"""Labels of pairs, generalised to a value of each caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rewards.intrinsic.base import Evidence, Example
from rewards.intrinsic.fitted import FittedModel
from rewards.intrinsic.moments import Moments
from rewards.online.tensors import State

__all__ = ["Ranking", "bradley_terry_loss"]

NORMALISER = "normaliser"


@dataclass(kw_only=True)
class Ranking(FittedModel):
    """Bradley-Terry value R of a caption as z = (R - mean) / deviation, 0 where z <= threshold. Version 0 scores 0.

    Mean and variance run over the occurrences of captions that scorers met, each with the R of the version
    made next; they are part of that version. (The paper's released code computes z and then uses R.)

    Source: ONI-ranking, arXiv:2410.23022 sec. 3, after Motif, arXiv:2310.00166 eq. 1.
    """

    asks: ClassVar[int] = 2

    threshold: float = -0.5
    """epsilon, in deviations."""
    normaliser: Moments = field(default_factory=Moments, init=False, repr=False)

    def values(self, captions: Sequence[str]) -> NDArray[np.float64]:
        """Return [n] R."""
        return self.infer(captions)[:, 0].double().numpy()

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        if not self.version:
            return np.zeros(len(inputs))
        z = self.normaliser.normal(self.values(inputs))
        return np.where(z > self.threshold, z, 0.0)

    def update(self, evidence: Evidence) -> dict[str, float]:
        metrics = {"loss": self.fit(evidence.labels)} if evidence.labels else {}
        if met := list(evidence.captions):
            counts = np.array([evidence.captions[caption] for caption in met])
            self.normaliser = self.normaliser.merge(self.values(met), counts)
        self.version += 1
        ties = [value for _, value in evidence.labels if value == 0.5]
        metrics["tie_share"] = len(ties) / max(len(evidence.labels), 1)
        return {**metrics, **self._accuracy(evidence.held_out)}

    def loss(self, items: Sequence[tuple[str, ...]], values: Tensor) -> Tensor:
        rewards = self.network(self.encode([caption for pair in items for caption in pair])).view(-1, 2)
        return bradley_terry_loss(rewards[:, 0], rewards[:, 1], values)

    def state(self) -> State:
        return {**super().state(), **self.normaliser.state(NORMALISER)}

    def load(self, version: int, state: State) -> None:
        self.normaliser = Moments.of(NORMALISER, state)
        super().load(version, state)

    def _accuracy(self, held_out: Sequence[Example]) -> dict[str, float]:
        """Return the share of held-out pairs, ties left out, whose order is right."""
        decided = [(pair, value) for pair, value in held_out if value != 0.5]
        if not decided:
            return {}
        rewards = self.values([caption for pair, _ in decided for caption in pair]).reshape(-1, 2)
        better = np.array([value > 0.5 for _, value in decided])
        return {"heldout_accuracy": float(np.mean((rewards[:, 0] > rewards[:, 1]) == better))}


def bradley_terry_loss(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of P(first better) = sigmoid(first - second), nats.

    Args:
      first, second: [n] float. R of the two captions; carry gradient.
      labels: [n] float in [0, 1]. 1 the first is better, 0 the second, 0.5 a tie.

    Source: arXiv:2310.00166 eq. 1, with the soft ties of arXiv:2410.23022.
    """
    return F.binary_cross_entropy_with_logits(first - second, labels)

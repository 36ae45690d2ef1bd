"""Labels of single captions, generalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, stack
from torch.nn import functional as F

from rewards.intrinsic.base import Evidence, Example
from rewards.intrinsic.fitted import FittedModel

__all__ = ["Classification"]


@dataclass(kw_only=True)
class Classification(FittedModel):
    """1 where a network finds a caption more probably helpful than `threshold`, else 0. Version 0 scores 0.

    Source: ONI-classification, arXiv:2410.23022 sec. 3.
    """

    asks: ClassVar[int] = 1
    outputs: ClassVar[int] = 2

    threshold: float = 0.5
    """eta; higher is sparser."""

    def probabilities(self, captions: Sequence[str]) -> NDArray[np.float64]:
        """Return [n] P(helpful)."""
        return self.infer(captions).softmax(-1)[:, 1].double().numpy()

    def score(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        if not self.version:
            return np.zeros(len(inputs))
        return (self.probabilities(inputs) > self.threshold).astype(np.float64)

    def update(self, evidence: Evidence) -> dict[str, float]:
        metrics = {"loss": self.fit(evidence.labels)} if evidence.labels else {}
        self.version += 1
        return {**metrics, **self._accuracy(evidence.held_out)}

    def loss(self, items: Sequence[tuple[str, ...]], values: Tensor) -> Tensor:
        """Return the mean cross entropy, nats; a label between 0 and 1 is a probability."""
        logits = self.network(self.encode([caption for (caption,) in items]))
        return F.cross_entropy(logits, stack([1 - values, values], -1))

    def _accuracy(self, held_out: Sequence[Example]) -> dict[str, float]:
        if not held_out:
            return {}
        helpful = self.probabilities([item[0] for item, _ in held_out]) > 0.5
        return {"heldout_accuracy": float(np.mean(helpful == np.array([value > 0.5 for _, value in held_out])))}

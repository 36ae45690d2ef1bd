"""What a learner remembers beside its weights, and the whole state that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from configs.errors import DataError, RunError

__all__ = ["LearnerState", "Progress"]


@dataclass(slots=True)
class Progress:
    """Which weights these are and what they were made of."""

    version: int = 0
    """Updates so far."""
    trained_digest: str = ""
    """`chain_digest` over the ids of every update."""
    trained_count: int = 0
    """Trajectories consumed."""
    nonfinite: int = 0
    """Skipped updates in a row."""

    def advance(self, digest: str, count: int) -> None:
        """Record one update."""
        self.version += 1
        self.trained_digest = digest
        self.trained_count += count

    def count_failure(self, failed: bool, limit: int) -> None:
        """Count updates in a row whose every optimiser step was skipped.

        Raises:
          RunError: there were `limit` of them.
        """
        self.nonfinite = self.nonfinite + 1 if failed else 0
        if self.nonfinite >= limit:
            raise RunError(
                f"learner update {self.version}: gradients were not finite in {self.nonfinite} updates "
                f"in a row, learner.max_nonfinite_updates is {limit}; "
                "lower learner.learning_rate or learner.max_grad_norm, and look for extreme rewards"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerState:
    """Everything a learner needs to go on bit for bit."""

    progress: Progress
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    """`<moment>/<parameter>`; empty before the first step."""
    reference: Mapping[str, Tensor]
    """Weights of the reference policy or of the target network; empty without one."""
    rng: Tensor
    """torch's generator."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Anything else that is learned from the stream, such as the scale of returns; no name is `torch`."""

    def check_names(self, expected: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Refuse tensors of another model.

        Args:
          expected: section (`model`, `reference`) -> the tensors to be restored.

        Raises:
          DataError: a section lacks a tensor, has one too many, or one of another shape.
        """
        for section, wanted in expected.items():
            held: Mapping[str, Tensor] = getattr(self, section)
            odd = {n for n in wanted.keys() & held.keys() if held[n].shape != wanted[n].shape}
            odd |= wanted.keys() ^ held.keys()
            if odd:
                raise DataError(
                    f"checkpoint of version {self.progress.version}: {section} differs in {sorted(odd)[:3]}; "
                    "resume with the model and learner.beta it was saved with"
                )

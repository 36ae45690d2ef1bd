"""Training or held out: a property of the prompt's text, and of nothing else.

Two tasks with the same prompt always fall on the same side, whatever their index, source, seed or
run; therefore training and evaluation cannot overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

__all__ = ["Split"]


@dataclass(frozen=True)
class Split:
    """Holds out the prompts whose 64-bit hash lies in the lowest `held_out_fraction` of the range."""

    held_out_fraction: float

    def holds_out(self, prompt: str) -> bool:
        """Return True when a task with this prompt is kept for evaluation."""
        return xxhash.xxh3_64_intdigest(prompt.encode()) < self.held_out_fraction * 2.0**64

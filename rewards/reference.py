"""How a reward component asks the reference: the policy as it was before its first update, after any warm start."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema import RunConfig
from rewards.policy import PolicyLogprobs

if TYPE_CHECKING:
    from rewards.process.hosted import HostedModel

__all__ = ["REFERENCE_VERSION", "Reference", "reference_folder"]

REFERENCE_VERSION = 0
"""Of the policy: what is published first is what the warm start left."""


class Reference:
    """The weights of version 0, held by the replica that asks.

    A component with "reference" in its `needs` has a parameter `reference: Reference`, which its host fills in. The
    engines hold no second set of weights, so each replica opens a copy of its own at its first question; the folder
    is the run's, never changes, and is the same after a resume.
    """

    def __init__(self, folder: Path | None) -> None:
        """Open nothing yet; without a folder every question is refused."""
        self._folder = folder

    @cached_property
    def model(self) -> HostedModel:
        """Network and tokenizer."""
        from rewards.process.hosted import HostedModel  # slow to import, and every replica may ask, but few do

        return HostedModel(self._folder)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> PolicyLogprobs:
        """Return the log-probabilities of token sequences, as `Policy.logprobs` does; the version is always 0.

        Raises:
          DataError: there is no run to have a reference, or its folder is no model.
        """
        rows = await asyncio.to_thread(self.model.logprobs, sequences)
        return PolicyLogprobs(REFERENCE_VERSION, [row.numpy() for row in rows])


def reference_folder(config: RunConfig, run_folder: Path) -> Path:
    """Return the model folder of the policy before its first update; after a warm start that is written to it."""
    if config.warm_start.updates:
        return run_folder / "reference"
    return Path(config.model.path) if config.model.path else run_folder / "model"

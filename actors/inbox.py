"""New weights on their way into an engine, between two of its steps."""

from __future__ import annotations

from typing import Any

from configs.errors import Corruption, DeadlineExceeded, RunError
from learners.models.weights import Receiver

__all__ = ["WeightsInbox"]


class WeightsInbox:
    """Loads into an engine what its receiver has."""

    def __init__(self, engine: Any, receiver: Receiver) -> None:
        """Wire them.

        Args:
          engine: with `load_weights(version, tensors)`.
        """
        self._engine, self._receiver = engine, receiver

    def swap(self) -> bool:
        """Load the newest weights that came since the last call; return whether there were any."""
        if self._receiver.poll() is None:
            return False
        try:
            version, tensors = self._receiver.take()
        except (Corruption, DeadlineExceeded):
            return False  # a torn or superseded write: the next poll sees the version after it
        self._engine.load_weights(version, tensors)
        return True

    def offer(self, packet: Any) -> None:
        """Take pushed weights (back ends that do not share memory).

        Raises:
          RunError: the receiver fetches its weights itself.
        """
        offer = getattr(self._receiver, "offer", None)
        if offer is None:
            raise RunError(f"{type(self._receiver).__name__} pulls its weights; publish.backend does not match")
        offer(packet)

    def close(self) -> None:
        """Release the receiver."""
        self._receiver.close()

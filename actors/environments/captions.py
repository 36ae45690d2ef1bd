"""Captions without looking: none, or the environment's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.environment_spec import Observations

__all__ = ["InfoCaptions", "no_captions"]


def no_captions() -> None:
    """No captions."""


class InfoCaptions:
    """What the environment says itself, in `info["caption"]`; a step without one says nothing."""

    needs: frozenset[str] = frozenset()

    def __call__(
        self,
        before: Observations,
        actions: NDArray[np.float32],
        after: Observations,
        ended: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
    ) -> list[str]:
        """See `Captioner`."""
        return [str(info.get("caption", "")) for info in infos]

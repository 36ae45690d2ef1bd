"""NetHack (NLE): what its tasks show, and what they say.

Dimensions: L places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffers.environment_spec import Observations

__all__ = ["NetHackCaptions"]


class NetHackCaptions:
    """NetHack's message line: latin-1, without its zero bytes."""

    needs = frozenset({"message"})

    def __call__(
        self,
        before: Observations,
        actions: NDArray[np.float32],
        after: Observations,
        ended: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
    ) -> list[str]:
        """See `Captioner`."""
        return [line.tobytes().replace(b"\0", b"").decode("latin-1") for line in after["message"]]

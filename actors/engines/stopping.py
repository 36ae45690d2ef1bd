"""Stop strings: a completion ends after the token that completes one of them.

Dimensions: V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.models.tokenizer import token_texts

__all__ = ["StopStrings"]


class StopStrings:
    """Finds stop strings in the text of sampled tokens; most tokens are ruled out by one table look-up."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._texts: list[str] | None = None
        self._tables: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def may_complete(self, stop: tuple[str, ...]) -> NDArray[np.bool_]:
        """Return [V] bool: the tokens whose text could hold the last character of a stop string."""
        if stop not in self._tables:
            if self._texts is None:
                self._texts = list(token_texts(self._tokenizer, self._vocabulary))
            last = {s[-1] for s in stop}
            # A token that is part of a multi-byte character decodes to the replacement character.
            table = [bool(last & set(text)) or "\ufffd" in text for text in self._texts]
            self._tables[stop] = np.array(table, dtype=np.bool_)
        return self._tables[stop]

    def completed(self, tokens: NDArray[np.int32], stop: tuple[str, ...]) -> bool:
        """Return whether the text of `tokens` [N], the last one just sampled, holds a stop string."""
        # Every token is at least one byte, so a stop string that ends in the last token lies in this
        # window; two more tokens absorb what decoding strips at its left edge.
        window = max(len(s.encode()) for s in stop) + 2
        text = self._tokenizer.decode(tokens[-window:].tolist(), skip_special_tokens=False)
        return any(s in text for s in stop)

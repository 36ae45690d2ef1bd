"""What a scorer met, as a message to the learner."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Met"]

CAPTIONS = 4096
"""Different captions that wait for the learner; beyond it the ones longest unseen are let go."""
FRAGMENT_BYTES = 8 << 20
"""Observations that wait for the learner; beyond it the oldest fragments are let go."""


@dataclass(kw_only=True, slots=True)
class Met:
    """One message to the learner."""

    captions: dict[str, int] = field(default_factory=dict)
    """Caption -> times it was scored; latest scored last."""
    fragments: list[bytes] = field(default_factory=list)
    """Observations, as their environment encodes them."""
    used: dict[int, float] = field(default_factory=dict)
    """Version -> when it first scored anything here, in seconds since the Unix epoch."""

    def __len__(self) -> int:
        return len(self.captions) + len(self.fragments)

    def followed_by(self, newer: Met) -> Met:
        """Return both as one message."""
        captions = dict(self.captions)
        for caption, count in newer.captions.items():
            captions[caption] = captions.pop(caption, 0) + count
        return Met(captions=captions, fragments=self.fragments + newer.fragments, used={**newer.used, **self.used})

    def trim(self) -> int:
        """Let go of what is too much; return how many captions and fragments."""
        before = len(self)
        while len(self.captions) > CAPTIONS:
            del self.captions[next(iter(self.captions))]
        while sum(map(len, self.fragments)) > FRAGMENT_BYTES:
            del self.fragments[0]
        return before - len(self)

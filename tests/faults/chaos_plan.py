"""Which faults a storm deals, to whom and when: drawn from a seed, with a quota for every kind and state.

What a run survives by itself comes often and side by side, in decks that hold every (fault, victim) there is; what ends
it, and costs a resume, comes a dozen times in half an hour, one after another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["ANY_TIME", "MOMENTS", "PILLARS", "SEVERE", "Card", "hands", "severe"]

ANY_TIME = "any time"
MOMENTS = {"a checkpoint begins": ("checkpoints", ".partial-*"), "a ledger file begins": ("ledger", "*-e*")}
"""State of a run -> where its files show it."""
PILLARS = ("buffer", "learner", "supervisor", "driver", "gcs_server", "raylet")
"""Whose death ends the run, to be resumed; members of every other pool are replaced."""


@dataclass(frozen=True)
class Card:
    """A fault to be dealt."""

    fault: str
    victim: str
    """Whose process: see `chaos_faults.pool_of`."""
    moment: str = ANY_TIME


SEVERE = (
    *(Card("kill", name, moment) for name in ("driver", "buffer", "learner") for moment in MOMENTS),
    *(Card("kill", name) for name in ("supervisor", "gcs_server", "raylet")),
    Card("full disk", "buffer"),
    Card("full disk", "learner"),
)
"""Of half an hour, in which each ends the run once."""
WHOLE_S = 1800.0


def severe(seconds: float, rng: random.Random) -> list[tuple[float, Card]]:
    """Return (seconds after the start, card) of what ends the run, spread evenly in a random order."""
    cards = list(SEVERE)
    rng.shuffle(cards)
    gap = WHOLE_S / len(SEVERE)
    return [((index + 0.5) * gap, cards[index % len(cards)]) for index in range(int(seconds / gap + 0.5))]


def hands(names: Sequence[str], rng: random.Random) -> Iterator[Card]:
    """Yield cards that a run survives, for ever: deck after deck, each in an order of its own."""
    while True:
        deck = _deck(names)
        rng.shuffle(deck)
        yield from deck


def _deck(names: Sequence[str]) -> list[Card]:
    """Each name meets each fault; members of pools are killed at every moment, and hang once."""
    passing = zip(("freeze", "slow", "partition"), (*MOMENTS, ANY_TIME), strict=True)
    cards = [Card(fault, name, moment) for fault, moment in passing for name in names]
    for name in names:
        if name not in PILLARS:
            cards += [Card("hang", name), *(Card("kill", name, moment) for moment in (ANY_TIME, *MOMENTS))]
    return cards

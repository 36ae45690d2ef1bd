"""One line of the glossary of metrics."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the glossary."""

    name: str
    unit: str
    meaning: str
    healthy: str = "no fixed range"
    low: float | None = None
    """An average of the last updates below this is worth an advisory."""
    high: float | None = None
    """An average of the last updates above this is worth an advisory."""
    remedy: str = ""
    """What to change, naming the configuration keys."""

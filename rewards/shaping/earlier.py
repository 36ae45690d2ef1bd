"""What other components said of a sample."""

from __future__ import annotations

from collections.abc import Sequence

from buffers.scores import Sample, Score, ScoreStatus

__all__ = ["earlier_values", "require_named"]


def earlier_values(sample: Sample, names: Sequence[str]) -> dict[str, float] | Score:
    """Return the values of components by name, or the score that says which of them gave none."""
    told = sample.metadata.get("scores", {})
    values = {name: told[name] for name in names if told.get(name) is not None}
    if missing := [name for name in names if name not in values]:
        return Score.invalid(ScoreStatus.ABSTAINED, f"{sample.id} has no valid score by {', '.join(missing)}")
    return values


def require_named(after: Sequence[str], **fields: str) -> None:
    """Refuse fields whose value is no name of `after`.

    Raises:
      ValueError: names field and value.
    """
    for field, name in fields.items():
        if isinstance(after, str) or name not in after:
            raise ValueError(f"{field} is {name!r}, and after is {after!r}; after must list it; add it there")

"""Scores of one group that several versions of a component gave: they have no common baseline."""

from __future__ import annotations

from collections.abc import Sequence

from buffers.scores import Score

__all__ = ["mixed", "newest_versions", "several_versions"]


def several_versions(scores: Sequence[Score]) -> bool:
    """Return whether the valid scores among those of one component are of several versions."""
    return len({score.version for score in scores if score.value is not None}) > 1


def newest_versions(groups: Sequence[str], scores: Sequence[Score]) -> dict[str, int]:
    """Return the newest version that gave a valid score to each group that has one.

    Args:
      groups: of each sample.
      scores: of one component, one for each sample.
    """
    newest: dict[str, int] = {}
    for group, score in zip(groups, scores, strict=True):
        if score.value is not None:
            newest[group] = max(newest.get(group, score.version), score.version)
    return newest


def mixed(groups: Sequence[str], scores: Sequence[Score]) -> set[str]:
    """Return the groups in which the valid scores of one component are of several versions; arguments as above."""
    newest = newest_versions(groups, scores)
    return {
        group
        for group, score in zip(groups, scores, strict=True)
        if score.value is not None and score.version < newest[group]
    }

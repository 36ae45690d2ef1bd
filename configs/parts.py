"""What packages need of each other and may not import: the composition root hands it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from configs.registry import Deferred

__all__ = ["Parts"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How the parts of a configuration are made; nothing is imported before one is called."""

    tasks: Deferred
    """-> the task stream"""
    spec: Deferred
    """-> what a decision policy acts in"""
    held_out: Deferred
    """-> tasks for evaluation"""
    examples: Deferred
    """-> (prompt, answer) texts of the warm start"""
    graph: Deferred
    """(handle sets by component) -> the reward graph"""
    combine: Deferred
    """-> from the scores of all components to one verdict"""
    reward_server: Callable[..., Deferred]
    """(component, folder of the reference policy or nothing) -> -> one replica, outside a run"""
    reference: Deferred
    """(run folder) -> model folder of the policy before its first update"""
    model_server: Callable[[str], Deferred]
    """name of `rewards.models` -> -> one member of its pool"""
    generation_check: Deferred
    """(model folder, table of trajectories) -> the check of their log-probabilities"""
    checkpoint: Deferred
    """(folder of checkpoints, version or None) -> the checkpoint"""
